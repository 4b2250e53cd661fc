"""Runs a function on one file after the other, each in a process of its own with hard limits on its time and memory."""

import json
import os
import resource
import signal
import sys
import traceback

import attrs

import spikec


@attrs.frozen
class Outcome:
    """What became of a file.

    Attributes:
        said: ``"read"``, ``"refused: ..."`` by a spikec error, ``"raw ..."`` by another one, or how the process ended.
        seconds: of processor time.
        peak: bytes that the process took more than when it was forked.
    """

    said: str
    seconds: float
    peak: int

    @property
    def kind(self):
        return self.said.partition(":")[0]

    @property
    def is_fine(self):
        """Whether the file was read, or refused without blaming a converter of spikec's own."""
        return self.kind in ("read", "refused") and "its converter" not in self.said


def outcome(read, path, seconds=5, megabytes=1000):
    """Run ``read(path)`` in a forked child, which may take so many seconds and megabytes more than this process has."""
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        os.close(source)
        try:
            found = _in_child(read, path, seconds, megabytes)
            os.write(sink, json.dumps(found).encode()[:60_000])
        finally:
            os._exit(0)
    os.close(sink)
    with open(source, "rb") as file:
        text = file.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        slow = name == "SIGPROF"
        return Outcome(f"too slow: more than {seconds} s" if slow else f"crash: {name}", float(seconds), 0)
    return Outcome(*json.loads(text)) if text else Outcome("crash: it says nothing", 0.0, 0)


def _in_child(read, path, seconds, megabytes):
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped, resident = (int(pages) * resource.getpagesize() for pages in file.read().split()[:2])
    resource.setrlimit(resource.RLIMIT_AS, (mapped + megabytes * 2**20,) * 2)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    said = _said(read, path)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return said, usage.ru_utime + usage.ru_stime, max(usage.ru_maxrss * 1024 - resident, 0)


def _said(read, path):
    try:
        read(path)
    except spikec.CompileError as error:
        return f"refused: {error}"[:5000]
    except BaseException as error:
        where = traceback.extract_tb(sys.exc_info()[2])[-1]
        return f"raw {type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"[:5000]
    return "read"
