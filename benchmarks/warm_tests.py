"""Runs pytest many times from one process that has the heavy libraries loaded; benchmarks/mutants.py starts it.

Each line of its input is a job in JSON: pytest's arguments, the seconds of processor time that it may take, and the
file for what it prints. The answer is one line: pytest's exit code (negative if it was ended from outside) and the
seconds that it took. It needs a system with fork().
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time

LIBRARIES = ("numpy", "hypothesis.strategies", "hypothesis.extra.numpy", "xdist", "pytest")
PATIENCE = 20  # a run that waits for something may take so many times its seconds of the processor


def run(arguments: list[str], limit_s: int, output: str) -> int:
    """In the child: pytest with those arguments; the exit code."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 5))
    signal.alarm(PATIENCE * limit_s)
    import pytest

    code = int(pytest.main(arguments))
    sys.stdout.flush()
    return code


def main() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        job = json.loads(line)
        before = time.process_time_ns() + _children_ns()
        child = os.fork()
        if not child:
            code = 70
            try:
                code = run(job["arguments"], job["limit_s"], job["output"])
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # whatever the tests started and did not end
        seconds = (time.process_time_ns() + _children_ns() - before) / 1e9
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": seconds}), flush=True)


def _children_ns() -> int:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((used.ru_utime + used.ru_stime) * 1e9)


if __name__ == "__main__":
    main()
