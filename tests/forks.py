"""Runs scripts in another Python, each in a fork of one process that has imported what takes long to import.

    python forks.py "import ..."

does that, reads a line of JSON for each script, ``[path, argument, ...]``, and answers it with a line of JSON: ``[exit
code, what it wrote to stdout, and to stderr]``. Such a process needs nothing but Python's own library.
"""

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile

#: how many seconds a script may take
LIMIT = 900


class Forks:
    """Such a process of another Python; ``with`` ends it."""

    def __init__(self, python, imports):
        self.command = [python, __file__, imports]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def run(self, *command):
        """Run a script with arguments, as ``subprocess.run`` does with the Python in front of them."""
        print(json.dumps(list(map(str, command))), file=self.process.stdin, flush=True)
        return subprocess.CompletedProcess(command, *json.loads(self.process.stdout.readline()))


def _script(command, out, err):
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def _serve():
    exec(sys.argv[1])
    fork = multiprocessing.get_context("fork")
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            child = fork.Process(target=_script, args=(json.loads(line), out, err))
            child.start()
            child.join(LIMIT)
            child.kill()
            child.join()
            out.seek(0)
            err.seek(0)
            print(json.dumps([child.exitcode, out.read(), err.read()]), flush=True)


if __name__ == "__main__":
    _serve()
