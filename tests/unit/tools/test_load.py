"""`crowd load` measures what producers would see; its numbers are checked against a sink's."""

from __future__ import annotations

import json
import socket

import pytest

from crowd.tools.load import Load, LoadPlan, Target, parse_target, request_parts
from crowd.tools.loop import READ, Loop
from crowd.tools.sink import Sink, SinkPlan
from crowd.tools.tally import Answer, Tally, report_lines


def run(plan_of, sink_plan, *, log=None, sink_log=None):
    """Load a real sink, in one loop; `plan_of` makes the plan for the sink's target."""
    loop = Loop()
    sink = Sink(loop, sink_plan, log=sink_log)
    load = Load(loop, plan_of(parse_target(f"http://127.0.0.1:{sink.port}/leads")), log=log)
    load.start()
    loop.call_at(loop.now_s() + 20, loop.stop)
    loop.run()
    report = load.finish()
    sink.close()
    loop.close()
    return report, sink


def test_a_closed_loop_sends_exactly_so_many_requests():
    report, sink = run(
        lambda target: LoadPlan((target,), rate=0, requests=300, connections=4), SinkPlan()
    )
    assert (report.requests, report.succeeded, report.failed) == (300, 300, 0)
    assert sink.statuses == {200: 300}
    assert report.success_ratio == 1


def test_an_open_loop_sends_at_its_rate():
    report, _ = run(lambda target: LoadPlan((target,), rate=400, seconds=0.25), SinkPlan())
    assert report.succeeded == 100


def test_latency_counts_from_when_a_request_was_due():
    """One connection to a consumer that takes 20 ms cannot do 100 a second: that must show."""
    report, _ = run(
        lambda target: LoadPlan((target,), rate=100, seconds=0.2, connections=1),
        SinkPlan(delay_s=0.02),
    )
    assert report.succeeded == 20
    assert report.max_ms > 150


def test_failures_are_counted_by_status(tmp_path):
    log = tmp_path / "load.log"
    report, _ = run(
        lambda target: LoadPlan((target,), rate=0, requests=10, connections=1),
        SinkPlan(status=503),
        log=str(log),
    )
    assert (report.succeeded, report.failed, report.statuses) == (0, 10, {"503": 10})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 10
    assert set(lines[0]) == {"time", "id", "status", "latency", "url"}


def test_numbered_requests_are_found_again_at_the_sink(tmp_path):
    log = tmp_path / "sink.log"
    run(
        lambda target: LoadPlan((target,), rate=0, requests=20, connections=3, numbered=True),
        SinkPlan(),
        sink_log=str(log),
    )
    records = [json.loads(line) for line in log.read_text().splitlines()]
    numbers = [int(dict(record["headers"])["X-Load-Number"]) for record in records]
    assert sorted(numbers) == list(range(1, 21))


def test_a_node_that_is_down_fails_no_request():
    """Requests go to the nodes that take connections; the other is tried again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = taken.getsockname()[1]
    target = parse_target(f"http://127.0.0.1:{dead}/leads")
    report, _ = run(
        lambda alive: LoadPlan((target, alive), rate=0, requests=50, connections=4), SinkPlan()
    )
    assert (report.succeeded, report.failed) == (50, 0)
    assert report.urls[target.url] == {"succeeded": 0, "failed": 0}


def test_where_nobody_listens_nothing_is_waited_for():
    """And the reason is told."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = taken.getsockname()[1]
    target = parse_target(f"http://127.0.0.1:{dead}/leads")
    plan = LoadPlan((target,), rate=100, seconds=0.2, connections=2, timeout_s=3_600)
    report, _ = run(lambda _: plan, SinkPlan())
    assert (report.unsent, report.failed) == (20, 20)
    assert report.troubles == ("Connection refused",)


def test_an_answer_that_does_not_come_is_a_failure():
    report, _ = run(
        lambda target: LoadPlan((target,), rate=0, requests=1, connections=1, timeout_s=0.1),
        SinkPlan(delay_s=5),
    )
    assert (report.failed, report.errors) == (1, {"no answer in time": 1})


def test_a_connection_that_breaks_fails_what_was_in_flight():
    loop = Loop()
    listener = socket.create_server(("127.0.0.1", 0))
    target = parse_target(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    load = Load(loop, LoadPlan((target,), rate=0, requests=1, connections=1))
    load.start()

    def accept(_):
        accepted, _address = listener.accept()

        def break_it(_):
            accepted.recv(1 << 16)
            loop.unwatch(accepted.fileno())
            accepted.close()

        loop.watch(accepted.fileno(), READ, break_it)

    loop.watch(listener.fileno(), READ, accept)
    loop.call_at(loop.now_s() + 10, loop.stop)
    loop.run()
    report = load.finish()
    listener.close()
    loop.close()
    assert report.errors == {"connection closed": 1}
    assert report.statuses == {"0": 1}


def test_a_connection_that_is_kept_open_carries_the_next_request():
    """Producers keep theirs; a connection for each request would measure connecting."""
    loop = Loop()
    listener = socket.create_server(("127.0.0.1", 0))
    target = parse_target(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    load = Load(loop, LoadPlan((target,), rate=0, requests=5, connections=1))
    load.start()
    accepted = []

    def accept(_):
        connection, _address = listener.accept()
        accepted.append(connection)

        def answer(_):
            if connection.recv(1 << 16):
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            else:
                loop.unwatch(connection.fileno())

        loop.watch(connection.fileno(), READ, answer)

    loop.watch(listener.fileno(), READ, accept)
    loop.call_at(loop.now_s() + 10, loop.stop)
    loop.run()
    report = load.finish()
    for each in (listener, *accepted):
        each.close()
    loop.close()
    assert (report.succeeded, len(accepted)) == (5, 1)


def test_what_is_sent_is_what_was_asked_for():
    target = Target("http://h:1/a?b", "h", 1, "h:1", "/a?b")
    plan = LoadPlan((target,), body=b"xyz", method="PUT", headers=(("content-type", "text/plain"),))
    head, rest = request_parts(plan, target)
    assert head == (
        b"PUT /a?b HTTP/1.1\r\nHost: h:1\r\ncontent-type: text/plain\r\nContent-Length: 3\r\n\r\nxyz"
    )
    assert rest == b""


@pytest.mark.parametrize("url", ["https://h/", "h:80", "http://", "http://h/ a", "http://h/é"])
def test_a_url_that_cannot_be_loaded_is_refused(url):
    with pytest.raises(ValueError, match="expected a URL"):
        parse_target(url)


def test_the_longest_pause_is_the_longest_time_without_a_success():
    tally = Tally(["http://a"])
    tally.begin(10.0)
    for now_s, status in ((10.5, 200), (11.0, 503), (13.0, 200), (13.1, 200)):
        tally.add(0, Answer(now_s, 0.001, status, None, None))
    tally.end(14.0)
    report = tally.report(99.0)
    assert report.longest_pause_s == 2.5
    assert report.seconds == 4.0
    assert any("2.5 s" in line for line in report_lines(report))
