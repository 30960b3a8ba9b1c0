"""What may be posted: types, JSON, schemas, sizes, and compressed bodies."""

from __future__ import annotations

import gzip
import json
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.door.asked import Admitted, Asked, Reason
from crowd.door.coding import TooLargeError, decode
from crowd.door.content import Content
from crowd.door.document import NotJsonError, line_and_column, read_json
from crowd.door.door import Door
from crowd.policy import ContentPolicy, Policy
from crowd.schema import compile_schema, pointer

SCHEMA = """{
    "$defs": {"shop": {"type": "string", "pattern": "^[a-z0-9]+$"}},
    "type": "object", "required": ["message"],
    "properties": {"message": {"maxLength": 10}, "shops": {"items": {"$ref": "#/$defs/shop"}}}
}"""
ANYTHING = ContentPolicy(
    types=(), json=False, depth=64, unique=True, schema=None, schema_text=None,
    body_bytes_max=1000, decoded_bytes_max=1000, head_bytes_max=300, fields_max=5,
)  # fmt: skip


def verdict(body=b"{}", *headers, method=b"POST", **changes):
    policy = Policy("/leads", content=msgspec.structs.replace(ANYTHING, **changes))
    return Door(policy).admit(Asked(method, [*headers], body, b"", 0.0, 0.0))


def typed(text):
    return b"Content-Type", text


TYPES = ("application/json", "text/*")


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (b"application/json", True),
        (b"Application/JSON ; charset=utf-8", True),
        (b"text/csv", True),
        (b"text/", True),
        (b"text", False),
        (b"application/jsonp", False),
        (b"application/*", False),
        (b"texts/csv", False),
        (b"", False),
        (b"\xff/\xff", False),
    ],
)
def test_only_some_types_are_taken(value, taken):
    found = verdict(b"x", typed(value), types=TYPES)
    assert isinstance(found, Admitted) is taken
    if not taken:
        assert found.reason is Reason.TYPE
        listed = b"application/json, text/*"
        assert found.headers == ((b"Accept", listed), (b"Accept-Post", listed))


def test_one_type_is_expected():
    assert verdict(b"x", types=TYPES).detail.startswith("found Content-Type 0 of them; expected")
    assert verdict(b"x", typed(b""), types=TYPES).detail.startswith(
        "found Content-Type ''; expected"
    )
    two = (typed(b"text/csv"), typed(b"text/csv"))
    assert verdict(b"x", *two, types=TYPES).detail.startswith("found Content-Type 2 of them")


def test_a_delete_without_a_body_says_all_with_its_target():
    assert isinstance(verdict(b"", method=b"DELETE", types=TYPES, json=True), Admitted)
    assert verdict(b"", method=b"POST", json=True).reason is Reason.MALFORMED
    assert verdict(b"x", method=b"DELETE", json=True).reason is Reason.MALFORMED


@pytest.mark.parametrize("length", [None, 0])
def test_a_delete_whose_body_may_be_empty_is_not_refused_before_it_is_known(length):
    policy = msgspec.structs.replace(ANYTHING, types=TYPES)
    door = Door(Policy("/leads", content=policy))
    for method, type_counts in ((b"DELETE", False), (b"POST", True)):
        refused = door.at_head(Asked(method, [], b"", b"", 0.0, 0.0), length, waits=True)
        assert (refused is not None) is type_counts
    refused = door.at_head(Asked(b"DELETE", [], b"", b"", 0.0, 0.0), 1, waits=True)
    assert refused.reason is Reason.TYPE
    assert verdict(b"x", method=b"DELETE", types=TYPES).reason is Reason.TYPE


@pytest.mark.parametrize(
    "body", [b"{}", b" [1, 2.5e3, null]\n", b'"\xc3\xa9"', b"0", b'{"a":{"b":1},"b":1}']
)
def test_json_is_taken(body):
    assert isinstance(verdict(body, json=True), Admitted)


@pytest.mark.parametrize(
    ("body", "words", "place"),
    [
        (b'{"a": 1,}', "trailing comma in object", (1, 9, 8)),
        (b'{"a": 1,\n "b": nul}', "invalid character", (2, 8, 16)),
        (b'{"a": NaN}', "invalid character", (1, 7, 6)),
        (b"[Infinity]", "invalid character", (1, 2, 1)),
        (b"\xef\xbb\xbf{}", "invalid character", (1, 1, 0)),
        (b'["a\nb"]', "invalid character", (1, 4, 3)),
        (b"[1, 2", "it ends too early, or has half a surrogate pair", (1, 6, 5)),
        (b"", "it ends too early, or has half a surrogate pair", (1, 1, 0)),
        (b"{} x", "trailing characters", (1, 5, 4)),
        (b'\n["\xff"]', "it is not UTF-8", (2, 3, 3)),
        (b"[1e999]", "Number out of range", None),
        (b'{"a": [{"b": 1, "c": 2, "b": 3}]}', 'an object has the name "b" twice', None),
        (b'{"a": 1, "\\u0061": 2}', 'an object has the name "a" twice', None),
        (b"[" * 65 + b"]" * 65, "it is nested more than 64 deep", None),
        (b"[" * 100_000, "it is nested more than 64 deep", None),
    ],
)
def test_what_is_no_json_is_told_with_its_place(body, words, place):
    refused = verdict(body, json=True, body_bytes_max=200_000)
    assert refused.reason is Reason.MALFORMED
    assert refused.detail.startswith(f"the body is not JSON: {words}")
    where = dict(zip(("line", "column", "offset"), place, strict=True)) if place else {}
    assert dict(refused.facts) == where


def test_half_a_surrogate_pair_is_no_text():
    for body in (b'"\\ud800"', b'["\\ud83d", "and more of it"]', b'"\\udc00 and more"'):
        assert verdict(body, json=True).reason is Reason.MALFORMED


MOST = 2**1024 - 2**971  # the largest double


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize(
    ("number", "taken"),
    [
        (b"1e308", True), (b"-1.7976931348623157E+308", True), (b"1e-999", True),
        (b"0.%b" % (b"9" * 900), True), (b"9" * 308, True), (b"%d" % MOST, True),
        (b"0." + b"0" * 399 + b"1e+500", True), (b"1%be-300" % (b"0" * 600), True),
        (b"1e309", False), (b"-1E+0309", False), (b"1.8e308", False), (b"9" * 310, False),
        (b"-%d" % (2 * MOST), False), (b"1" * 5_000, False), (b"1%be99" % (b"0" * 210), False),
        (b"1%b.5e9" % (b"0" * 300), False),
    ],
)  # fmt: skip
def test_a_number_beyond_a_double_is_not_taken(unique, number, taken):
    """One reader has infinity for it, and another none of it or all."""
    for body in (number, b'{"a": [%b, 1]}' % number):
        found = verdict(body, json=True, unique=unique, body_bytes_max=10_000)
        assert isinstance(found, Admitted) is taken
        if not taken:
            assert found.detail == "the body is not JSON: Number out of range"
    text = b'"%b %b 1e999"' % (number, b"9" * 400)
    assert isinstance(verdict(text, json=True, unique=unique, body_bytes_max=10_000), Admitted)


@given(st.text("0123456789.eE+-", max_size=12), st.integers(0, 320), st.sampled_from(["", "e99", "E+308", "e-9"]))  # fmt: skip
def test_any_number_is_taken_or_not_as_a_double_has_it(text, zeros, end):
    number = text + "0" * zeros + end
    try:
        expected = isinstance(json.loads(number), int | float) and abs(float(number)) < float("inf")
    except ValueError:
        expected = False
    for unique in (True, False):
        found = verdict(number.encode(), json=True, unique=unique)
        assert isinstance(found, Admitted) is expected


def test_depth_is_counted_and_breadth_is_not():
    deep = b'{"a":' * 64 + b"1" + b"}" * 64
    assert isinstance(verdict(deep, json=True), Admitted)
    assert isinstance(verdict(b"[" + b"[],{}," * 100 + b"1]", json=True, depth=2), Admitted)
    assert verdict(b"[[[]], 1]", json=True, depth=2).detail.endswith("nested more than 2 deep")


def test_names_need_not_be_looked_at():
    assert isinstance(verdict(b'{"a": 1, "a": 2}', json=True, unique=False), Admitted)


@given(st.binary(max_size=60) | st.text('{}[]":,\\u0123 \ttrue', max_size=40).map(str.encode))
def test_any_body_is_json_or_not(body):
    """What is taken, the standard library reads alike; nothing is raised but NotJsonError."""
    try:
        value = read_json(body, depth=8, unique=True)
    except NotJsonError as error:
        if error.offset is not None:
            assert 0 <= error.offset <= len(body)
            assert min(line_and_column(body, error.offset)) >= 1
    else:
        assert json.loads(body) == value


@given(st.recursive(st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.integers(-(10**20), 10**20),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
def test_any_json_is_taken(value):
    read_json(json.dumps(value).encode(), depth=512, unique=True)
    read_json(
        json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), depth=512, unique=True
    )


# --- Schemas ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"message": "x"}', None),
        (b'{"message": "x", "shops": ["a1"]}', None),
        (b"{}", ""),
        (b"[]", ""),
        (b'{"message": "more than ten letters"}', "/message"),
        (b'{"message": "x", "shops": ["a", "B!"]}', "/shops/1"),
    ],
)
def test_what_does_not_fit_is_told_with_a_pointer(body, place):
    found = verdict(body, json=True, schema_text=SCHEMA)
    if place is None:
        assert isinstance(found, Admitted)
    else:
        assert (found.reason, found.facts) == (Reason.SCHEMA, (("pointer", place),))
        assert found.detail


def test_a_mismatch_repeats_no_whole_body():
    refused = verdict(b'{"message": "%s"}' % (b"x" * 900), json=True, schema_text=SCHEMA)
    assert len(refused.detail) < 320


def test_a_pattern_takes_linear_time():
    """With backtracking this one would take longer than anyone waits."""
    schema = compile_schema('{"pattern": "^(a+)+$"}')
    assert schema.mismatch("a" * 50_000 + "!") is not None


UNIQUE = compile_schema('{"uniqueItems": true}')


@pytest.mark.parametrize("first", [2**60, 2**63, -(2**70), 10**300])
def test_items_are_told_apart_in_linear_time(first):
    """Whole numbers beyond a double's precision, which compared in pairs would take minutes."""
    many = [first + n for n in range(20_000)]
    assert UNIQUE.mismatch(many) is None
    assert UNIQUE.mismatch([{"a": n} for n in many]) is None
    assert UNIQUE.mismatch([*many, first]) == ("", "an item is there twice")


def test_items_of_one_shape_or_another_are_told_apart_in_linear_time():
    """A hash that hears of values alone, and not of brackets, has one for all of these."""
    many = [[[] if digit == "0" else [[]] for digit in f"{n:016b}"] for n in range(20_000)]
    assert UNIQUE.mismatch(many) is None


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([], True), ([1], True), (["a", "b"], True), (["a", "b", "a"], False), ([1, True], True),
        ([0, False, None, "", [], {}], True), ([1, 1.0], False), ([100, 1e2], False),
        ([0, -0.0], False), ([1e300, int(1e300)], False), ([2**53, 2**53 + 1], True),
        ([1.5, 1.25, "1.5"], True), ([[1], [1.0]], False), ([[1], [True]], True),
        ([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], False), ([{"a": 1}, {"a": 1, "b": 1}], True),
        ([[1, 2], [2, 1]], True), ([[[]], [], [[], []]], True), (["é", "e\u0301"], True),
    ],
)  # fmt: skip
def test_items_are_equal_as_json_has_it(items, unique):
    assert (UNIQUE.mismatch(items) is None) is unique
    assert (UNIQUE.mismatch([*items, *range(1000, 1030)]) is None) is unique


@pytest.mark.parametrize("draft", ["draft-04", "draft-06", "draft-07"])
def test_older_drafts_have_unique_items_too(draft):
    schema = f'{{"$schema": "http://json-schema.org/{draft}/schema#", "items": {{"uniqueItems": true}}}}'  # fmt: skip
    assert compile_schema(schema).mismatch([[1, 2], [1, 1]]) == ("/1", "an item is there twice")
    assert compile_schema(schema.replace("true", "false")).mismatch([[1, 1]]) is None


EITHER = """{"$schema": "%s", "properties": {"all": {"%s": [
    {"type": "array", "items": {"type": "string"}},
    {"type": "object", "required": ["op"],
     "properties": {"op": {"enum": ["add"]}, "left": {"$ref": "#/properties/all"}}},
    {"type": "object", "required": ["op"],
     "properties": {"op": {"enum": ["mul"]}, "left": {"$ref": "#/properties/all"}}},
    {"type": "null"}
]}}}"""
DRAFTS = [
    "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
]  # fmt: skip


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("either", ["anyOf", "oneOf"])
def test_alternatives_are_told_in_linear_time(draft, either):
    """Why each of them does not fit, in all that it leads to, would fill any memory."""
    schema = compile_schema(EITHER % (draft, either))
    deep = {"op": "add"}
    assert schema.mismatch({"all": deep}) is None
    for _ in range(60):
        deep = {"op": "other", "left": deep}
    for value in (deep, [1] * 1_000_000):
        where, words = schema.mismatch({"all": value})
        assert (where, either in words) == ("/all", True)


def test_alternatives_are_told_where_what_they_leave_is_looked_at():
    schema = compile_schema("""{
        "anyOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": true}}],
        "allOf": [{"maxProperties": 3}], "unevaluatedProperties": false,
        "properties": {"anyOf": {"oneOf": [{"type": "integer"}, {"minimum": 5}]}, "enum": {"enum": [{"anyOf": []}]}}
    }""")  # fmt: skip
    assert schema.mismatch({"a": "x", "anyOf": 1, "enum": {"anyOf": []}}) is None
    assert schema.mismatch({"a": "x", "c": 1})[1].startswith("Unevaluated properties")
    assert schema.mismatch({"anyOf": 6})[0] == "/anyOf"
    assert schema.mismatch({"a": 1, "b": 2, "enum": 3})[0] == "/enum"


def test_a_schema_that_refers_into_its_alternatives_tells_no_place():
    schema = compile_schema(
        '{"properties": {"a": {"anyOf": [{"type": "integer"}]}, "b": {"$ref": "#/properties/a/anyOf/0"}}}'
    )
    assert schema.mismatch({"b": 1}) is None
    assert schema.mismatch({"b": "x"}) == (None, "it does not fit the schema")


def test_i7_a_long_place_is_not_repeated():
    """A name is the producer's to choose, and an answer has room for some that people choose."""
    schema = '{"additionalProperties": {"type": "string"}}'
    refused = verdict(
        b'{"%s": 1}' % (b"x" * 1023), json=True, schema_text=schema, body_bytes_max=2000
    )
    assert refused.facts == (("pointer", "/" + "x" * 1023),)
    refused = verdict(
        b'{"%s": 1}' % (b"x" * 1024), json=True, schema_text=schema, body_bytes_max=2000
    )
    assert (refused.reason, refused.facts) == (Reason.SCHEMA, ())
    assert refused.detail == '1 is not of type "string"; its place is over 1024 characters long'


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_format_counts_up_to_draft_7(draft):
    schema = compile_schema(f'{{"$schema": "{draft}", "format": "email"}}')
    assert (schema.mismatch("nobody") is None) is ("2019" in draft or "2020" in draft)


def test_pointers_escape_what_they_must():
    assert pointer(["a/b", "~", 0]) == "/a~1b/~0/0"


# --- Compressed bodies ----------------------------------------------------------------------------


def encoded(coding):
    return b"Content-Encoding", coding


@pytest.mark.parametrize(
    ("coding", "encode"),
    [(b"gzip", gzip.compress), (b"X-GZip", gzip.compress), (b"deflate", zlib.compress)],
)
def test_a_compressed_body_is_looked_into(coding, encode):
    """It is stored as it came; only what is inside is checked."""
    assert isinstance(verdict(encode(b'{"a": 1}'), encoded(coding), json=True), Admitted)
    assert verdict(encode(b"{"), encoded(coding), json=True).reason is Reason.MALFORMED
    assert isinstance(verdict(b"{}", encoded(b"identity"), json=True), Admitted)
    assert isinstance(verdict(b"not so", encoded(coding)), Admitted)


def test_a_bomb_is_not_blown_up():
    bomb = gzip.compress(b" " * 10_000_000, mtime=0)
    refused = verdict(bomb, encoded(b"gzip"), json=True, body_bytes_max=20_000)
    assert (refused.reason, refused.detail) == (Reason.BODY, "over 1000 bytes once it is decoded")
    many = gzip.compress(b"", mtime=0) * 100
    assert (
        verdict(many, encoded(b"gzip"), json=True, body_bytes_max=9_000).reason is Reason.MALFORMED
    )


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"{}", b"gzip"), (gzip.compress(b"{}", mtime=0)[:-3], b"gzip"), (gzip.compress(b"{}", mtime=0) + b"x", b"gzip"),
        (gzip.compress(b"{}", mtime=0), b"deflate"), (zlib.compress(b"{}") + zlib.compress(b"{}"), b"deflate"),
        (b"", b"gzip"),
    ],
)  # fmt: skip
def test_what_is_not_so_encoded_is_malformed(body, coding):
    refused = verdict(body, encoded(coding), json=True)
    assert refused.reason is Reason.MALFORMED
    assert refused.detail.startswith(f"the body is not {coding.decode()}: ")


@pytest.mark.parametrize("codings", [(b"br",), (b"gzip, gzip",), (b"gzip", b"gzip"), (b"\xff",)])
def test_other_codings_are_not_looked_into(codings):
    refused = verdict(b"x", *map(encoded, codings), json=True)
    assert (refused.reason, refused.headers) == (
        Reason.CODING, ((b"Accept-Encoding", b"gzip, deflate"),),
    )  # fmt: skip


@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate"]), st.integers(0, 100))
def test_any_bytes_are_decoded_within_the_bound_or_refused(body, coding, bytes_max):
    for each in (body, gzip.compress(body, mtime=0), zlib.compress(body)):
        try:
            assert len(decode(each, coding, bytes_max)) <= bytes_max
        except (ValueError, TooLargeError):
            pass


# --- Sizes ------------------------------------------------------------------------------------------


def test_sizes_are_known_at_the_head():
    content = Content(ANYTHING)
    assert content.head([(b"A", b"b")] * 5, 1000) is None
    assert content.head([], 1001).reason is Reason.BODY
    assert content.head([(b"A", b"b")] * 6, 0).reason is Reason.HEAD
    assert content.head([(b"A", b"b" * 300)], 0).reason is Reason.HEAD
    assert verdict(b"x" * 1001).reason is Reason.BODY
