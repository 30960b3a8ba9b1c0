"""The pure parts: fields, targets, budget, problems, metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.message import pack_headers
from crowd.metrics import METRICS, MetricType, parse_sample
from crowd.web.budget import Budget
from crowd.web.fields import (
    PACKED_BYTES_MAX,
    Kind,
    accepts_gzip,
    kind_of,
    sort_fields,
    sort_next,
    with_key,
)
from crowd.web.problems import NO_QUORUM, PROBLEMS, SCHEMA_MISMATCH, problem_reply
from crowd.web.reply import make_reply
from crowd.web.target import from_absolute, is_deliverable

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"


@pytest.mark.parametrize(
    ("encodings", "accepted"),
    [
        (b"gzip", True), (b"GZIP", True), (b"br, gzip;q=0.5", True), (b"*", True),
        (b"x-gzip", True), (b"gzip;q=0", False), (b"gzip;q=0.000, *", False), (b"identity", False),
        (b"", False), (b"*;q=0", False), (b"gzip ; q = 0", False), (b"deflate", False),
        (b",;=,,gzip;q", True), (b"gzipped", False),
    ],
)  # fmt: skip
def test_gzip_only_where_it_is_accepted(encodings, accepted):
    assert accepts_gzip(encodings) is accepted


@given(st.binary(max_size=60))
def test_any_accept_encoding_is_read(encodings):
    assert accepts_gzip(encodings) in (True, False)


def test_connection_names_fields_of_this_hop():
    headers = [(b"X-A", b"1"), (b"connection", b"close, x-a"), (b"Host", b"h"), (b"X-B", b"2"),
               (b"Connection", b"HOST ,x-c,"), (b"X-C", b"3")]  # fmt: skip
    fields = sort_fields(headers)
    assert fields.kept == [(b"Host", b"h"), (b"X-B", b"2")]
    assert fields.unusual


NAMES = st.sampled_from(
    [b"Host", b"Idempotency-Key", b"idempotency-key", b"Content-Type", b"X-A", b"Connection",
     b"Crowd-Position", b"Prefer", b"TE", b"Accept-Encoding"]
)  # fmt: skip
VALUES = st.sampled_from([b"", b"a", b"x-a", b"idempotency-key", b"h:1", b"gzip"])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
KEYED = st.tuples(HEADERS, st.tuples(st.just(b"Idempotency-Key"), VALUES), HEADERS).map(
    lambda parts: [*parts[0], parts[1], *parts[2]]
)


def said(fields):
    """Return all that fields say."""
    return {
        name: getattr(fields, name) for name in fields.__struct_fields__ if name[:1] not in "_f"
    } | {"flaw": fields.flaw, "packed": fields.packed(fields.kept)}


@given(KEYED | HEADERS, st.data())
def test_the_next_request_says_what_it_says_alone(before, data):
    """Whatever came before it on its connection, and however like it that was."""
    headers = data.draw(HEADERS | st.just(before))
    if headers is before and before:
        place = data.draw(st.integers(0, len(before) - 1))
        name = data.draw(NAMES | st.just(before[place][0]))
        headers = [*before[:place], (name, data.draw(VALUES)), *before[place + 1 :]]
    last = sort_fields(before)
    last.packed(last.kept)
    assert said(sort_next(last, before, headers)) == said(sort_fields(headers))
    assert said(last) == said(sort_fields(before))  # a request before it may have it still


@given(st.lists(st.tuples(st.just(b"X-A"), VALUES), min_size=1, max_size=3), VALUES)
def test_only_fields_that_differ_in_the_key_have_what_a_door_found(headers, value):
    before = [*headers, (b"Idempotency-Key", b"1")]
    last = sort_fields(before)
    last.found["door"] = "somebody"
    again = sort_next(last, before, [*headers, (b"Idempotency-Key", value)])
    assert again.found is last.found
    other = [(b"X-A", value + b"!"), *headers[1:], (b"Idempotency-Key", b"1")]
    assert sort_next(last, before, other).found == {}


def test_a_connection_holds_no_large_heads_packed():
    fields = sort_fields([(b"X-A", b"x" * PACKED_BYTES_MAX)])
    assert fields.packed(fields.kept) == pack_headers(fields.kept)
    assert fields.packed(fields.kept) is not fields.packed(fields.kept)


def test_what_travels_on_is_packed_once():
    fields = sort_fields([(b"Host", b"h"), (b"X-A", b"1")])
    assert fields.packed(fields.kept) is fields.packed(fields.kept)
    other = [(b"X-A", b"1")]
    assert fields.packed(other) == pack_headers(other)
    assert fields.packed(fields.kept) == pack_headers(fields.kept)


@given(KEYED, st.lists(st.tuples(VALUES, st.integers(-1, 9), st.booleans()), max_size=5))
def test_what_travels_on_is_packed_as_if_it_were_packed_anew(headers, nexts):
    """Of the requests of one connection that has a key, with whatever a door or a wait changes."""
    fields = sort_fields(headers)
    for value, without, waits in nexts:
        if fields.key_place >= 0:
            fields = with_key(fields, (fields.kept[fields.key_place][0], value))
        headers = [field for n, field in enumerate(fields.kept) if n != without]
        headers += [(b"Crowd-Wait", b"1")] if waits else []
        assert fields.packed(headers) == pack_headers(headers)


def test_of_a_large_head_with_a_key_nothing_is_held():
    fields = sort_fields([(b"Idempotency-Key", b"1"), (b"X-A", b"x" * PACKED_BYTES_MAX)])
    before = fields.packed(fields.kept)
    fields.kept[1] = (b"X-A", b"y" * PACKED_BYTES_MAX)
    assert fields.packed(fields.kept) == pack_headers(fields.kept) != before


@given(st.binary(min_size=1, max_size=20))
def test_any_name_has_a_kind(name):
    assert kind_of(name) is kind_of(name.lower())


TOKEN = b"!#$%&'*+-.^_`|~"  # what a field's name may have beside letters and digits


@given(
    st.sampled_from([b"crowd-message-id", b"crowd-position", b"crowd-attempt", b"crowd-replay",
                     b"crowd-", b"crowd-anything"]),
    st.lists(st.booleans(), min_size=20, max_size=20),
    st.sampled_from(TOKEN),
)  # fmt: skip
def test_crowds_own_names_are_dropped_in_every_spelling(name, capitals, dash):
    """No producer can say which message this is: whatever case, and whatever stands for a dash.

    CGI and WSGI make one variable of Crowd-Position and Crowd_Position.
    """
    spelt = bytes(
        letter - 32 if capital and 97 <= letter <= 122 else letter
        for letter, capital in zip(name, capitals, strict=False)
    ).replace(b"-", bytes([dash]))
    assert kind_of(spelt) is Kind.DROPPED
    assert sort_fields([(b"Host", b"h"), (spelt, b"1")]).kept == [(b"Host", b"h")]


@pytest.mark.parametrize("name", [b"Crowd", b"Crowded-House", b"Crowd2", b"X-Crowd-Id", b"crow-d"])
def test_names_that_only_look_like_crowds(name):
    """They are the producer's and pass."""
    assert kind_of(name) is Kind.PLAIN


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"/a?b", b"/a?b", b"h"),
        (b"http://x/a?b", b"/a?b", b"x"),
        (b"HTTPS://x:1", b"/", b"x:1"),
        (b"http://x?q", b"/?q", b"x"),
        (b"http://u:p@x/a", b"http://u:p@x/a", b"h"),
        (b"http://x/y://z", b"/y://z", b"x"),
        (b"http:///a", b"http:///a", b"h"),
        (b"ftp://x/a", b"ftp://x/a", b"h"),
        (b"*", b"*", b"h"),
    ],
)
def test_absolute_targets(target, path, host):
    assert from_absolute(target, [(b"Host", b"h"), (b"A", b"b")]) == (
        path, [(b"Host", host), (b"A", b"b")],
    )  # fmt: skip


def test_an_absolute_target_mends_no_host():
    """One that is none is left to be refused; one that is missing is added where it may be."""
    for value in (b"", b"a b", b"u@h"):
        assert from_absolute(b"http://x/", [(b"host", value)]) == (b"/", [(b"host", value)])
    assert from_absolute(b"http://x/", [(b"A", b"b")]) == (b"/", [(b"A", b"b")])
    added = [(b"Host", b"x"), (b"A", b"b")]
    assert from_absolute(b"http://x/", [(b"A", b"b")], adds_host=True) == (b"/", added)
    assert from_absolute(b"http://x/", [(b"HOST", b"y")], adds_host=True)[1] == [(b"HOST", b"x")]


def test_what_can_stand_in_a_request_line():
    assert is_deliverable(b"/a?b#c") is is_deliverable(b"*") is is_deliverable(b"a:1") is False
    assert is_deliverable(b"/")


class _Waiter:
    def __init__(self) -> None:
        self.is_admitted = False

    def admitted(self) -> None:
        self.is_admitted = True


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(1, 150)), st.tuples(st.just("give"), st.none())
        ),
        max_size=60,
    )
)
def test_the_budget_admits_in_order_and_within_its_bound(steps):
    """I7: never more than the bound, except one request that alone is larger; nobody starves."""
    budget = Budget(100)
    held: list[int] = []
    waiting: list[tuple[_Waiter, int]] = []
    for step, amount in steps:
        if step == "ask" and amount is not None:
            if budget.take(amount):
                held.append(amount)
            else:
                waiter = _Waiter()
                budget.wait(waiter, amount)
                waiting.append((waiter, amount))
        elif held:
            budget.give(held.pop(0))
            while waiting and waiting[0][0].is_admitted:
                held.append(waiting.pop(0)[1])
        assert not any(waiter.is_admitted for waiter, _ in waiting), "first come, first served"
        assert budget.used == sum(held)
        assert budget.used <= 100 or len(held) == 1
    while held:
        budget.give(held.pop(0))
        while waiting and waiting[0][0].is_admitted:
            held.append(waiting.pop(0)[1])
    assert waiting == []
    assert budget.used == 0


def test_i7_an_answer_with_what_a_request_had_is_not_kept():
    first, second = (
        problem_reply(SCHEMA_MISMATCH, "x", facts=(("pointer", "/a"),)) for _ in range(2)
    )
    assert first == second
    assert first is not second
    assert problem_reply(NO_QUORUM, "x") is problem_reply(NO_QUORUM, "x")


def test_problems_have_types_of_their_own():
    assert len({problem.name for problem in PROBLEMS}) == len(PROBLEMS)
    for problem in PROBLEMS:
        reply = problem_reply(problem, 'with "quotes"', retry_after_s=2, allow=("POST", "PUT"))
        document = json.loads(reply.body)
        assert document["type"] == f"/problems/{problem.name}"
        assert document["status"] == reply.status == problem.status
        assert (b"Retry-After", b"2") in reply.headers
        assert (b"Allow", b"POST, PUT") in reply.headers


def test_a_status_without_a_name_has_an_empty_phrase():
    assert make_reply(599, (), b"").head == b"HTTP/1.1 599 \r\nContent-Length: 0\r\n"


def test_every_problem_has_its_heading():
    text = (REFERENCE / "http-api.md").read_text(encoding="utf-8")
    for problem in PROBLEMS:
        assert f"\n### `/problems/{problem.name}`\n" in text


def test_every_metric_has_its_heading():
    text = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
    for metric in METRICS:
        assert f"\n### `{metric.name}`\n" in text
    assert text.count("\n### `crowd_") == len(METRICS)


def test_metrics_are_named_as_prometheus_wants():
    names = [metric.name for metric in METRICS]
    assert names == sorted(set(names))
    for metric in METRICS:
        assert metric.name.startswith("crowd_")
        assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)


def test_samples_name_their_metric_and_labels():
    assert parse_sample("crowd_raft_term")[1] == ()
    metric, labels = parse_sample('crowd_consumer_in_flight{consumer="rest-api"}')
    assert (metric.name, labels) == ("crowd_consumer_in_flight", ("rest-api",))
    for wrong in ("crowd_nothing", "crowd_consumer_in_flight", 'crowd_raft_term{consumer="x"}'):
        with pytest.raises(LookupError):
            parse_sample(wrong)
