"""Many messages in one body: each element is what it was, and a bad one has its place."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crowd.door.asked import Admitted, Asked, Reason, Refused
from crowd.door.door import Door
from crowd.door.elements import (
    BYTES_MAX,
    ELEMENTS_MAX,
    Elements,
    NotElementsError,
    TooManyError,
    split_array,
    split_lines,
)
from crowd.policy import ContentPolicy, Policy

SPACE = st.sampled_from([b"", b" ", b"\t", b"  \t"])
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
ODD = [
    b'{"a": 1, "a": 2}',
    b"1e999",
    b"-0.00001E-999",
    b"9" * 400,
    b"[[], [[]], {}]",
    b'"\\u00e9\\ud83d\\ude00 \\/"',
    '"é\u2028"'.encode(),
    b'{"deep": [1, {"x": "],}"}]}',
]  # fmt: skip
ELEMENT = st.sampled_from(ODD) | st.builds(
    lambda value, ascii_only, dense: json.dumps(
        value, ensure_ascii=ascii_only, separators=(",", ":") if dense else None
    ).encode("utf-8", "surrogatepass"),
    VALUE.filter(lambda value: "\\ud" not in json.dumps(value)),
    st.booleans(),
    st.booleans(),
)
ELEMENTS = st.lists(ELEMENT, max_size=8)


def exact(values):
    return [bytes(value) for value in values]


@given(ELEMENTS, st.booleans())
@example(ODD, True)
def test_i9_lines_are_split_and_joined_again_without_a_change(elements, ended):
    body = b"\n".join(elements) + b"\n" * ended
    assert exact(split_lines(body)) == elements


@given(st.lists(st.tuples(SPACE, ELEMENT | st.just(b""), SPACE, st.sampled_from([b"\n", b"\r\n"]))))
def test_i9_white_space_around_a_line_is_nobodys(lines):
    body = b"".join(b"".join(line) for line in lines)
    assert exact(split_lines(body)) == [element for _, element, _, _ in lines if element]


@given(st.lists(st.tuples(SPACE | st.just(b"\r\n"), ELEMENT, SPACE), max_size=8), SPACE)
def test_i9_an_arrays_elements_are_split_without_a_change(parts, around):
    body = around + b"[" + b",".join(b"".join(part) for part in parts) + b"]" + around
    assert exact(split_array(body)) == [element for _, element, _ in parts]


@given(st.binary(max_size=40) | st.text('[]{},"\\ \n\r10eé', max_size=30).map(str.encode))
def test_arbitrary_bytes_are_elements_or_their_errors(body):
    """What is taken is JSON, in every line, and the standard library says so, too."""
    for split in (split_lines, split_array):
        try:
            values = exact(split(body))
        except (NotElementsError, TooManyError):
            continue
        for value in values:
            json.loads(value)
        if split is split_lines:
            lines = [line.strip(b" \t\r") for line in body.split(b"\n")]
            assert values == [line for line in lines if line]


@pytest.mark.parametrize(
    ("body", "index", "offset"),
    [
        (b'1\n{"a": nul}\n3', 1, 9),
        (b"1\n\n  2 x\n", 1, 7),
        (b"1 2\n", 0, 0),
        (b"1\n2 3\n", 1, 2),
        (b'{"a":\n1}\n', 0, 5),
        (b'1\n"\xff"\n', 1, 3),
        (b"\xef\xbb\xbf1\n", 0, 0),
        (b'1\n"\\ud800"\n', 1, 10),
        (b"1\n" + b"[" * 2_000, 1, 2),
    ],
)
def test_a_bad_line_has_its_place(body, index, offset):
    with pytest.raises(NotElementsError) as caught:
        split_lines(body)
    assert (caught.value.index, caught.value.offset) == (index, offset)


@pytest.mark.parametrize(
    ("body", "index", "offset"),
    [
        (b"[1, nul]", 1, 5),
        (b'[{"a,": [1,2]}, "],[", 2 3]', 2, 25),
        (b"[1,2", 1, 4),
        (b"[1,,2]", 1, 3),
        (b"[1,2 , x]", 2, 7),
        (b'[1,2,"\xff"]', 2, 6),
        (b'["]", "\\",", "\x01"]', 2, 14),
        (b'[1, "\\ud800"]', 1, 13),
        (b"[%b, [1.5, -]]" % (b"9" * 5_000), 1, 5_010),
        (b"[1,%b" % (b"[" * 2_000), 1, None),
        (b"[1,]", None, 3),
        (b"[1,2, ]", None, 6),
        (b"[1,", None, 3),
        (b"[", None, 1),
        (b"[]x", None, 3),
        (b"[1] 2", None, 5),
        (b"\xef\xbb\xbf[1]", None, 0),
    ],
)
def test_a_bad_element_of_an_array_has_its_place(body, index, offset):
    with pytest.raises(NotElementsError) as caught:
        split_array(body)
    assert (caught.value.index, caught.value.offset) == (index, offset)


def test_i7_there_are_at_most_so_many():
    assert len(split_lines(b"1\n" * ELEMENTS_MAX)) == ELEMENTS_MAX
    assert len(split_array(b"[%b]" % b",".join([b"1"] * ELEMENTS_MAX))) == ELEMENTS_MAX
    for split, body in (
        (split_lines, b"1\n" * (ELEMENTS_MAX + 1)),
        (split_lines, b"\n" * (ELEMENTS_MAX + 1)),
        (split_array, b"[1%b]" % (b",1" * ELEMENTS_MAX)),
        (split_array, b"[1%b,x]" % (b",1" * ELEMENTS_MAX)),
    ):
        with pytest.raises(TooManyError):
            split(body)


@pytest.mark.parametrize(
    "element",
    [b'"%b"' % (b"a" * 1_000_000), b'"%b"' % (b'\\"' * 500_000), b"[%b{}]" % (b"{}," * 300_000)],
)
def test_i7_a_bad_element_is_found_within_some_copies_of_the_body(element):
    tracemalloc.start()
    try:
        with pytest.raises(NotElementsError) as caught:
            split_array(b"[%b, x]" % element)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.index == 1
    assert peak_bytes < 32 << 20


# --- At the door ----------------------------------------------------------------------------------

LINES = b"application/x-ndjson"
CONTENT = ContentPolicy((), True, 8, True, None, None, 1 << 20, 1 << 20, 1 << 15, 128)


def admit(body, media=LINES, *fields, content=None, idempotency="header", many=True, most=1 << 20):
    policy = Policy(
        "/x", ("POST",), content=content, many=many, idempotency=idempotency, decoded_bytes_max=most
    )
    headers = [(b"Content-Type", media), *fields]
    return Door(policy).admit(Asked(b"POST", headers, body, b"192.0.2.7", 0.0, 0.0))


@pytest.mark.parametrize(
    "media",
    [LINES, b"application/ndjson", b"Application/JSONL; charset=utf-8"],
)
def test_each_line_is_a_message(media):
    admitted = admit(b'{"a": 1}\n[2]\n', media)
    assert isinstance(admitted, Admitted)
    assert isinstance(admitted.elements, Elements)
    assert exact(admitted.elements.bodies) == [b'{"a": 1}', b"[2]"]
    assert admitted.elements.content_type == b"application/json"


def test_an_array_is_many_and_any_other_json_is_one_message():
    assert exact(admit(b" [1, [2]]", b"application/json").elements.bodies) == [b"1", b"[2]"]
    for body in (b'{"a": [1]}', b"1", b"", b"not JSON"):
        assert admit(body, b"application/json").elements is None
    assert admit(b"[1]", b"text/plain").elements is None
    assert admit(b"[1]", b"application/json", many=False).elements is None


def test_a_batch_of_events_is_many_and_a_binary_event_is_one():
    media = b"application/cloudevents-batch+json"
    assert admit(b'[{"id": "1"}]', media).elements.content_type == b"application/cloudevents+json"
    binary = (b"ce-specversion", b"1.0")
    assert admit(b"[1, 2]", b"application/json", binary).elements is None


@pytest.mark.parametrize(
    ("body", "media", "reason"),
    [
        (b"", LINES, Reason.MALFORMED),
        (b"\n \r\n", LINES, Reason.MALFORMED),
        (b"[]", b"application/json", Reason.MALFORMED),
        (b"1\nx\n", LINES, Reason.MALFORMED),
        (b'{"a": 1}', b"application/cloudevents-batch+json", Reason.MALFORMED),
        (b"1\n" * (ELEMENTS_MAX + 1), LINES, Reason.BODY),
        (b"[%b]" % (b" " * BYTES_MAX), b"application/json", Reason.BODY),
    ],
)
def test_what_is_no_message_is_refused_whole(body, media, reason):
    refused = admit(body, media)
    assert isinstance(refused, Refused)
    assert refused.reason is reason
    if reason is Reason.BODY:
        assert "split" in refused.detail


def test_what_is_no_array_is_no_batch():
    for body in (b'{"a": 1}', b"not JSON", b"", b"\xff"):
        refused = admit(body, b"application/cloudevents-batch+json")
        assert refused.detail == "the body is no JSON array; expected the events of a batch in one"
        assert refused.facts == ()


def test_the_place_of_a_bad_element_is_told():
    refused = admit(b"[1,2,]", b"application/json")
    assert dict(refused.facts) == {"line": 1, "column": 6, "offset": 5}
    assert dict(admit(b"1\n{]\n").facts) == {"index": 1, "line": 2, "column": 2, "offset": 3}


def test_i7_a_body_is_decoded_up_to_its_bound_and_no_further():
    coded = (b"Content-Encoding", b"gzip")
    assert exact(admit(gzip.compress(b"1\n2"), LINES, coded).elements.bodies) == [b"1", b"2"]
    bomb = gzip.compress(b"1\n" * 100_000)
    assert admit(bomb, LINES, coded, most=1_000).reason is Reason.BODY
    assert admit(b"1\n", LINES, coded).reason is Reason.MALFORMED
    assert admit(b"1\n", LINES, (b"Content-Encoding", b"zstd")).reason is Reason.CODING


def test_each_element_is_looked_at_as_one_body_is():
    refused = admit(b'{"a": 1}\n{"a": 1, "a": 2}\n', content=CONTENT)
    assert (refused.reason, dict(refused.facts)) == (Reason.MALFORMED, {"index": 1})
    refused = admit(b"[%b]" % (b"[" * 9 + b"]" * 9), b"application/json", content=CONTENT)
    assert (refused.reason, dict(refused.facts)) == (Reason.MALFORMED, {"index": 0})
    schema = ContentPolicy(
        (), True, 8, True, "s", '{"properties": {"n": {"type": "integer"}}}', 1 << 20, 1 << 20,
        1 << 15, 128,
    )  # fmt: skip
    assert isinstance(admit(b'{"n": 1}\n{"n": 2}', content=schema), Admitted)
    refused = admit(b'{"n": 1}\n{"n": "x"}', content=schema)
    assert refused.reason is Reason.SCHEMA
    assert dict(refused.facts) == {"index": 1, "pointer": "/n"}


# --- Events ---------------------------------------------------------------------------------------

STRUCTURED = b"application/cloudevents+json"
BATCH = b"application/cloudevents-batch+json"


def names(body, media, *fields):
    found = admit(body, media, *fields, idempotency="event")
    return found.events if isinstance(found, Admitted) else found.reason


def test_an_event_has_one_name_in_every_mode():
    name = ("/é %".encode(), b"A-1")
    event = '{"specversion":"1.0","id":"A-1","source":"/é %","type":"t"}'.encode()
    assert names(event, STRUCTURED) == (name,)
    assert names(b"[%b, %b]" % (event, event), BATCH) == [name, name]
    binary = [(b"ce-specversion", b"1.0"), (b"CE-ID", b'"A-1"'), (b"ce-source", b"/%C3%A9%20%25")]
    assert names(b"x", b"text/plain", *binary) == (name,)


def test_what_is_no_event_has_no_name_and_a_key_goes_before_it():
    assert names(b"x", b"text/plain") == ()
    assert names(b"1\n", LINES) == ()
    assert names(b"{}", STRUCTURED, (b"Idempotency-Key", b"k")) == ()


@pytest.mark.parametrize(
    ("body", "media", "fields"),
    [
        (b'{"id": "1"}', STRUCTURED, ()),
        (b'{"id": "", "source": "/"}', STRUCTURED, ()),
        (b'{"id": 1, "source": "/"}', STRUCTURED, ()),
        (b"not JSON", STRUCTURED, ()),
        (b'[{"id": "1", "source": "/"}, {}]', BATCH, ()),
        (b"[[]]", BATCH, ()),
        (b"x", b"a/b", ((b"ce-specversion", b"1.0"), (b"ce-id", b"1"))),
        (b"x", b"a/b", ((b"ce-specversion", b"1.0"), (b"ce-source", b"/"), *((b"ce-id", b"1"),) * 2)),
    ],
)  # fmt: skip
def test_an_event_without_a_name_is_refused(body, media, fields):
    assert names(body, media, *fields) is Reason.MALFORMED
