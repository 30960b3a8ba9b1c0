"""What a worker's process writes, and how it ended, as the node says it."""

from __future__ import annotations

import io

import pytest
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.logger import Logger, LogLevel, capturedLogs
from twisted.python.failure import Failure

from crowd.logs import json_lines
from crowd.workers.process import LINE_BYTES_MAX, WorkerProcess


def said(*pieces):
    """Return what the node logs when worker 3 writes so: levels and words."""
    process = WorkerProcess(3, lambda how: None)
    with capturedLogs() as events:
        for piece in pieces:
            process.errReceived(piece)
    return [(event["log_level"], event["log_format"].format(**event)) for event in events]


def test_a_workers_log_is_in_the_nodes_with_its_number_and_level():
    stream = io.StringIO()
    Logger(observer=json_lines(stream), namespace="crowd.x").error("it {what}", what="broke")
    line = stream.getvalue().encode()
    assert said(line[:5], line[5:]) == [(LogLevel.error, "worker 3: it broke")]


def test_a_traceback_comes_along():
    stream = io.StringIO()
    log = Logger(observer=json_lines(stream))
    log.failure("it broke", failure=Failure(ZeroDivisionError()))
    ((level, words),) = said(stream.getvalue().encode())
    assert level is LogLevel.critical
    assert "it broke" in words
    assert "ZeroDivisionError" in words


@pytest.mark.parametrize(
    "line", [b"Fatal Python error: x", b"\xff", b"{}", b'{"level":"no","source":"","message":""}']
)
def test_what_is_no_log_line_is_a_warning(line):
    ((level, words),) = said(line + b"\n")
    assert level is LogLevel.warn
    assert words.startswith("worker 3: ")


def test_i7_a_line_without_end_is_cut():
    lines = said(*[b"x" * 10_000] * 100)
    assert lines
    assert all(len(words) <= LINE_BYTES_MAX + 20 for _, words in lines)


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (ProcessTerminated(None, 9, 9), "signal 9"),
        (ProcessTerminated(3, None, 768), "exit status 3"),
        (ProcessDone(0), "exit status 0"),
    ],
)
def test_an_end_is_told_in_words(error, how):
    told = []
    WorkerProcess(1, told.append).processEnded(Failure(error))
    assert told == [how]
