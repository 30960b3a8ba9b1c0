"""Samples the process that finds this on its path: where its processor time goes.

Python imports ``sitecustomize`` at its start. With CROWD_SAMPLES in the environment, SIGUSR1 begins to
take the main thread's stack whenever the process has used another 4 ms, its calls of the system
included, and SIGUSR2 writes what was seen to CROWD_SAMPLES/PID, one stack and its count a line.

A sampler from outside stops the process for each look, and has to run beside it; on two processors that
are busy already it takes what it would measure.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

EVERY_S = 0.004
"""What the kernel counts in: an interval timer of processor time cannot be finer."""


def install(directory):
    """Listen to both signals."""
    seen = Counter()

    def sample(_signal, frame):
        stack = []
        while frame is not None:
            stack.append(f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}")
            frame = frame.f_back
        seen[";".join(reversed(stack))] += 1

    def begin(_signal, _frame):
        seen.clear()
        signal.signal(signal.SIGPROF, sample)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def end(_signal, _frame):
        signal.setitimer(signal.ITIMER_PROF, 0)
        whole = Path(directory) / f"{os.getpid()}.part"
        whole.write_text("".join(f"{stack} {count}\n" for stack, count in seen.items()))
        whole.rename(whole.with_suffix(""))

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)


if os.environ.get("CROWD_SAMPLES"):
    install(os.environ["CROWD_SAMPLES"])
