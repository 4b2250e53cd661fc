"""Runs a function on many files, each in a process of its own with hard limits on its time and memory."""

import collections
import os
import resource
import signal
import sys
import traceback

import spikec


def outcome(read, path, seconds=5, megabytes=1000):
    """What ``read(path)`` does: ``"read"``, ``"refused: ..."`` by a spikec error, or how it ends otherwise.

    A child is forked, which may take so many seconds of processor time, and so much memory more than this process has.
    """
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        os.close(source)
        text = "killed by an exit"
        try:
            with open("/proc/self/statm", encoding="ascii") as file:
                size = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20,) * 2)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            text = _said(read, path)
        finally:
            os.write(sink, text.encode(errors="replace")[:60_000])
            os._exit(0)
    os.close(sink)
    with open(source, "rb") as file:
        text = file.read().decode(errors="replace")
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"too slow: more than {seconds} s" if name == "SIGPROF" else f"crash: {name}"
    return text


def _said(read, path):
    try:
        read(path)
    except spikec.CompileError as error:
        return f"refused: {error}"
    except BaseException as error:
        where = traceback.extract_tb(sys.exc_info()[2])[-1]
        return f"raw {type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"
    return "read"


def tally(outcomes):
    """How many of each kind there are; a file is fine if it is read or refused."""
    return collections.Counter(text.partition(":")[0] for text in outcomes)
