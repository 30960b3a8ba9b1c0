"""Many messages in one request: its bytes, and what its answer says of each message."""

from __future__ import annotations

import base64
import gzip
import json

import httptools
import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from crowd.definition import Batch, ConsumerDefinition, Retry
from crowd.delivery.forms.batch import batch_body, batch_id, is_shared
from crowd.delivery.forms.bulk import answer_bytes_max
from crowd.delivery.forms.form import Form
from crowd.delivery.outcome import Answered, Failed, FailureKind, Outcome, outcome_of
from crowd.delivery.request import Naming, parse_destination
from crowd.message import Message, Position, message_id
from tests.bulk_format import read_bulk

FORMS = ("ndjson", "json", "cloudevents", "bulk")


def items(*bodies, content_type=b"application/json", extra=()):
    headers = ((b"Host", b"leads.example"), (b"Content-Type", content_type), *extra)
    return [
        (
            Message(
                b"POST", b"/leads", headers, body, 1_700_000_000_000_000, b"192.0.2.1", b"http"
            ),
            Naming(message_id("0123abcd", Position(number)), Position(number), number % 3 + 1),
        )
        for number, body in enumerate(bodies, 1)
    ]


def form(kind, *, url="http://es:9200", path=None, **fields):
    retry = Retry(1_000_000, 2.0, 300_000_000, 10**12)
    definition = ConsumerDefinition(
        "c", url, path, (), 4, None, 10**6, "none", "now", retry, 10**9, "refuse"
    )
    definition = msgspec.structs.replace(definition, batch=Batch(kind), **fields)
    return Form(definition, parse_destination(url, path))


def one_of_each():
    return items(b'{ "a": 1 }', b"[2,\n 3]", b"plain")


def test_ndjson_byte_for_byte():
    """A line for each, and an object with base64 for what is no JSON."""
    assert batch_body("ndjson", one_of_each()) == (
        b'{"a":1}\n[2,3]\n{"crowd_base64":"cGxhaW4=","content_type":"application/json"}\n'
    )


def test_json_byte_for_byte():
    """An array of the same values."""
    assert batch_body("json", one_of_each()) == (
        b'[{"a":1},\n[2,3],\n{"crowd_base64":"cGxhaW4=","content_type":"application/json"}]'
    )


def test_bulk_byte_for_byte():
    """An action with the message's id, and a document, which is an object."""
    assert batch_body("bulk", one_of_each()) == (
        b'{"index":{"_id":"0123abcd-0000000000000001"}}\n'
        b'{"a":1}\n'
        b'{"index":{"_id":"0123abcd-0000000000000002"}}\n'
        b'{"crowd_base64":"WzIsCiAzXQ==","content_type":"application/json"}\n'
        b'{"index":{"_id":"0123abcd-0000000000000003"}}\n'
        b'{"crowd_base64":"cGxhaW4=","content_type":"application/json"}\n'
    )


def test_a_batch_of_events():
    """Each is what would be sent alone, and a CloudEvents library reads each."""
    events = json.loads(batch_body("cloudevents", one_of_each()))
    assert [event["id"][-1] for event in events] == ["1", "2", "3"]
    read = [JSONFormat().read(None, json.dumps(event)) for event in events]
    assert [event.get_data() for event in read] == [{"a": 1}, [2, 3], b"plain"]


def test_the_head_byte_for_byte():
    """What a consumer reads before the body."""
    made = form("ndjson", url="http://es:9200/in").batch(items(b"1", b"2", b"3")[::-1])
    assert made.head == (
        b"POST /in HTTP/1.1\r\n"
        b"Host: es:9200\r\n"
        b"Content-Type: application/x-ndjson\r\n"
        b"Content-Length: 6\r\n"
        b"Via: 1.1 crowd\r\n"
        b"Crowd-Batch: 3\r\n"
        b"Crowd-Position-First: 1\r\n"
        b"Crowd-Position-Last: 3\r\n"
        b"Crowd-Attempt: 3\r\n"
        b"\r\n"
    )
    assert made.body == b"3\n2\n1\n"
    assert made.answer_bytes_max == 0


def test_a_replayed_message_says_so():
    """It is alone in its request."""
    ((message, naming),) = items(b"1")
    made = form("ndjson").batch([(message, msgspec.structs.replace(naming, replay=True))])
    assert b"\r\nCrowd-Replay: 1\r\nCrowd-Batch: 1\r\n" in made.head


@pytest.mark.parametrize(
    ("kind", "url", "path", "target"),
    [
        ("json", "http://h", None, b"/"),
        ("json", "http://h/in/", None, b"/in"),
        ("json", "http://h/v1", "/in?k=1", b"/v1/in?k=1"),
        ("bulk", "http://h", None, b"/_bulk"),
        ("bulk", "http://h/leads", None, b"/leads/_bulk"),
        ("bulk", "http://h/leads/_bulk", None, b"/leads/_bulk"),
        ("bulk", "http://h", "/leads/_bulk?refresh=true", b"/leads/_bulk?refresh=true"),
    ],
)
def test_where_a_batch_goes(kind, url, path, target):
    """To the consumer's own path: a batch has messages of many targets."""
    head = form(kind, url=url, path=path).batch(items(b"{}")).head
    assert head.startswith(b"POST " + target + b" HTTP/1.1\r\n")


def test_gzip_where_it_helps():
    """A batch is compressed as a whole, to the same bytes each time."""
    many = items(*[b'{"shop":"a23m07b23"}'] * 50)
    for kind in FORMS:
        made = form(kind, gzip=True).batch(many)
        assert b"\r\nContent-Encoding: gzip\r\n" in made.head
        assert b"\r\nContent-Length: %d\r\n" % len(made.body) in made.head
        assert gzip.decompress(made.body) == form(kind).batch(many).body
        assert made == form(kind, gzip=True).batch(many)
    small = form("ndjson", gzip=True).batch(items(b"1"))
    assert b"Content-Encoding" not in small.head
    assert small.body == b"1\n"


def test_a_batchs_name():
    """The same messages in the same order have one; others have another."""
    three = items(b"1", b"2", b"3")
    assert batch_id(three) == batch_id(items(b"x", b"y", b"z"))
    assert len({batch_id(three), batch_id(three[:2]), batch_id(three[::-1])}) == 3
    assert batch_id(three).startswith(b"batch-")
    assert len(batch_id(three)) == 38


# --- Answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ndjson", "json", "cloudevents"])
@pytest.mark.parametrize(
    "answer", [Answered(200), Answered(503, 7.0), Answered(400), Failed(FailureKind.TIMEOUT, "")]
)
def test_one_answer_for_all(kind, answer):
    """Where a format tells messages not apart, they share the request's answer."""
    assert form(kind).answers(items(b"1", b"2"), answer, b'{"errors":true}') == [answer] * 2


def bulk_answer(*statuses, errors=True, ids=True):
    listed = []
    for number, status in enumerate(statuses, 1):
        item = {"_index": "leads", "status": status}
        if ids:
            item["_id"] = message_id("0123abcd", Position(number))
        if status >= 300:
            item["error"] = {"type": "mapper_parsing_exception", "reason": "r" * 2_000}
        listed.append({"index": item})
    return json.dumps({"took": 1, "errors": errors, "items": listed}).encode()


@pytest.mark.parametrize("ids", [True, False])
def test_a_bulk_answer_tells_each(ids):
    """An item's status is its message's own, with the beginning of what was wrong."""
    three = items(b"{}", b"{}", b"{}")
    found = form("bulk").answers(three, Answered(200, 5.0), bulk_answer(201, 400, 429, ids=ids))
    assert [answer.status for answer in found] == [201, 400, 429]
    assert [outcome_of(answer) is Outcome.DELIVERED for answer in found] == [True, False, False]
    assert [len(answer.piece) for answer in found] == [0, 1_024, 1_024]
    assert found[1].piece.startswith(b'{"type": "mapper_parsing_exception"')


def test_whose_answer_it_is():
    """One for all may be about one of them; an item's own, and that of one alone, is not."""
    three, one = items(b"{}", b"{}", b"{}"), items(b"{}")
    refused = Answered(400)
    assert is_shared(form("json").answers(three, refused, b""))
    assert is_shared(form("bulk").answers(three, refused, b""))
    assert not is_shared(form("json").answers(one, refused, b""))
    assert not is_shared(form("bulk").answers(three, Answered(200), bulk_answer(400, 400, 400)))


def test_a_bulk_answer_without_errors():
    """Then all are delivered, whatever else it says."""
    two = items(b"{}", b"{}")
    for body in (
        bulk_answer(201, 200, errors=False),
        b'{"errors":false}',
        b'{"errors":false,"items":[]}',
    ):
        assert form("bulk").answers(two, Answered(200), body) == [Answered(200)] * 2


@pytest.mark.parametrize(
    "answer", [Answered(413), Answered(429, 3.0), Failed(FailureKind.BROKEN, "")]
)
def test_a_bulk_request_that_was_refused(answer):
    """Its answer is everyone's."""
    body = bulk_answer(201, 201)
    assert form("bulk").answers(items(b"{}", b"{}"), answer, body) == [answer] * 2


@pytest.mark.parametrize(
    "body",
    [
        b"", b"ok", b"[]", b"{}", bulk_answer(201, 201)[:-1], bulk_answer(201), bulk_answer(201, 201, 201),
        b'{"errors":true,"items":[{},{}]}', b'{"errors":true,"items":[{"index":{}},{"index":{}}]}',
        b'{"errors":true,"items":[{"index":{"status":0}},{"index":{"status":201}}]}',
        b'{"errors":"no"}', b"\xff", b"[" * 100_000,
        bulk_answer(201, 400).replace(b"-0000000000000002", b"-0000000000000003"),
    ],
)  # fmt: skip
def test_a_bulk_answer_that_tells_nothing(body):
    """Nobody knows what became of any: all are tried again, under their ids."""
    found = form("bulk").answers(items(b"{}", b"{}"), Answered(200), body)
    assert len(found) == 2
    assert {outcome_of(answer) for answer in found} == {Outcome.UNKNOWN}


@given(st.binary(max_size=200))
def test_no_bulk_answer_breaks_it(body):
    """Whatever comes back, each message has an answer."""
    assert len(form("bulk").answers(items(b"{}", b"{}"), Answered(200), body)) == 2


def test_how_much_of_an_answer_is_read():
    """Enough for errors that explain themselves, and bounded."""
    assert answer_bytes_max(1) == 67_584
    assert answer_bytes_max(500) == 1_089_536
    assert answer_bytes_max(10_000) == 16 << 20
    assert form("bulk").batch(items(b"{}")).answer_bytes_max == answer_bytes_max(1)


# --- Any messages -----------------------------------------------------------------------------------

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
ODD = st.sampled_from(
    [b"", b" ", b"NaN", b'"\\ud800"', b'"a\nb"', b"{}\n{}", b"\xef\xbb\xbf{}", b'{"a":1}\r\n',
     b"[" * 5_000, b'{"a":1,"a":2}', b"1e999", b'"\xe2\x80\xa8\xc2\x85"', b"\r"]
)  # fmt: skip
BODIES = (
    JSONS.map(lambda value: json.dumps(value, indent=1).encode())
    | JSONS.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "ignore"))
    | st.binary(max_size=40)
    | ODD
)
TYPES = st.sampled_from([b"application/json", b"text/plain", b"", b"a\xffb", b'a"b\\c'])


def held(value, body):
    """Whether `value` in a batch holds `body`: the same JSON, or the same bytes."""
    if isinstance(value, dict) and "crowd_base64" in value:
        return base64.b64decode(value["crowd_base64"]) == body
    return json.dumps(value) == json.dumps(json.loads(body.decode("utf-8")))


@given(st.lists(BODIES, min_size=1, max_size=5), TYPES, st.sampled_from(FORMS))
def test_every_body_is_in_its_place(bodies, content_type, kind):
    """Each form is valid, has one value for each message in their order, and loses no byte."""
    many = items(*bodies, content_type=content_type)
    body = batch_body(kind, many)
    if kind == "bulk":
        found = read_bulk(body)
        assert [metadata for _, metadata, _ in found] == [{"_id": n.id} for _, n in many]
        values = [document for _, _, document in found]
    elif kind == "ndjson":
        assert body.endswith(b"\n")
        values = [json.loads(line) for line in body[:-1].split(b"\n")]
    else:
        values = json.loads(body)
    assert len(values) == len(bodies)
    for value, each in zip(values, bodies, strict=True):
        if kind != "cloudevents":
            assert held(value, each)
        elif "data" in value:
            assert json.dumps(value["data"]) == json.dumps(json.loads(each))
        else:
            assert base64.b64decode(value.get("data_base64", "")) == each


@given(st.lists(BODIES, min_size=1, max_size=3), st.sampled_from(FORMS), st.booleans())
def test_every_request_is_http(bodies, kind, zipped):
    """An HTTP parser reads one request, with the body's own length."""
    made = form(kind, gzip=zipped).batch(items(*bodies))
    read, done = [], []

    class Reader:
        def on_body(self, data):
            read.append(data)

        def on_message_complete(self):
            done.append(True)

    httptools.HttpRequestParser(Reader()).feed_data(made.head + made.body)
    assert done == [True]
    assert b"".join(read) == made.body


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\n", b'{"index":{}}', b'{"index":{}}\n', b'{"index":{}}\n\n', b'{"index":{}}\n{}',
        b'{"index":{}}\n[]\n', b'{"index":{}}\n{"a":NaN}\n', b'{"put":{}}\n{}\n',
        b'{"index":{},"create":{}}\n{}\n', b'{"index":{}}\r\n{}\n', b'{"index":{"id":"1"}}\n{}\n',
        b'{"index":{"_id":"1","_id":"2"}}\n{}\n', b'{"index":{}}\n{}\n\n',
    ],
)  # fmt: skip
def test_the_checker_is_strict(body):
    """The reader that checks what is sent refuses what Elasticsearch would."""
    with pytest.raises(ValueError, match=r"."):
        read_bulk(body)
