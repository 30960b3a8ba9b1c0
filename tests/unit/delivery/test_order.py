"""What is in order with what."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.delivery.order import ALL, KEY_BYTES, Lines, Order
from crowd.message import Message, Position


def message(target=b"/leads", headers=(), body=b""):
    return Message(b"POST", target, headers, body, 1, b"192.0.2.1", b"http")


def same(text, one, other):
    """Whether two messages are in order with each other; None if one of them is on its own."""
    order = Order.from_text(text)
    keys = order.key(one), order.key(other)
    return None if None in keys else keys[0] == keys[1]


def test_all_are_in_one_order():
    assert Order.from_text("all").key(message()) == ALL


def test_messages_to_one_path_are_in_order():
    """The query is no part of it, nor is the form in which a producer wrote the target."""
    assert same("path", message(b"/a?x=1"), message(b"/a?x=2"))
    assert same("path", message(b"/a"), message(b"http://example.net/a?x"))
    assert not same("path", message(b"/a"), message(b"/a/"))


def test_messages_with_one_header_value_are_in_order():
    """The name's case is nothing; several lines are one list; without it each is on its own."""
    one = message(headers=((b"X-Shop", b"7"),))
    assert same("header:x-shop", one, message(headers=((b"x-SHOP", b"7"),)))
    assert not same("header:X-Shop", one, message(headers=((b"X-Shop", b"8"),)))
    twice = message(headers=((b"X-Shop", b"7"), (b"X-Shop", b"8")))
    assert same("header:X-Shop", twice, message(headers=((b"X-Shop", b"7, 8"),)))
    assert same("header:X-Shop", one, message()) is None


@pytest.mark.parametrize(
    ("pointer", "one", "other", "are"),
    [
        ("/id", b'{"id":1}', b'{"x":0, "id" : 1}', True),
        ("/id", b'{"id":1}', b'{"id":"1"}', False),
        ("/id", b'{"id":1}', b'{"id":2}', False),
        ("/id", b'{"id":null}', b'{"id":null}', True),
        ("/a/0/b", b'{"a":[{"b":"x"}]}', b'{"a":[{"b":"x"},2]}', True),
        ("/a~1b/~0", b'{"a/b":{"~":1}}', b'{"a/b":{"~":1}}', True),
        ("", b'{"a":1,"b":2}', b'{"b":2,"a":1}', True),
        ("/id", b'{"id":1}', b'{"other":1}', None),
        ("/id", b'{"id":1}', b"no json", None),
        ("/id", b'{"id":1}', b"", None),
        ("/id", b'{"id":1}', b"[" * 100_000, None),
        ("/id", b'{"id":1}', b'\xff{"id":1}', None),
        ("/1", b"[1,2]", b"[1]", None),
        ("/01", b"[1,2]", b"[1,2]", None),
        ("/-", b"[1,2]", b"[1,2]", None),
    ],
)
def test_messages_with_one_json_value_are_in_order(pointer, one, other, are):
    """What is no JSON, or has nothing there, is on its own: it blocks nothing and waits for none."""
    assert same(f"json:{pointer}", message(body=one), message(body=other)) is are


@given(st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
).map(lambda value: json.dumps(value).encode()), st.sampled_from(["/a", "", "/0/0", "/~0"]))  # fmt: skip
def test_any_body_has_a_short_key_or_none(body, pointer):
    """Whatever producers send, a key takes no more memory than another."""
    key = Order.from_text(f"json:{pointer}").key(message(body=body))
    assert key is None or len(key) == KEY_BYTES


@pytest.mark.parametrize("text", ["", "some", "path:x", "header:", "json:a", "all:all"])
def test_what_is_no_order_is_refused(text):
    with pytest.raises(ValueError, match="is no order"):
        Order.from_text(text)


@given(st.lists(st.tuples(st.sampled_from([None, b"a", b"b", b"c"]), st.booleans()), max_size=60))
def test_one_of_each_key_at_a_time_and_in_order(steps):
    """Heads leave in any order; within a key they come up as they were taken."""
    lines, heads, queued, seen = Lines(), [], {}, {}
    for number, (key, leaves) in enumerate(steps, 1):
        position = Position(number)
        queued.setdefault(key, []).append(position)
        if lines.enter(position, key):
            heads.append((position, key))
        assert len(lines) == sum(len(line) for k, line in queued.items() if k is not None)
        if leaves and heads:
            gone, key_gone = heads.pop(0)
            queued[key_gone].remove(gone)
            seen.setdefault(key_gone, []).append(gone)
            head = lines.leave(gone)
            if head is not None:
                heads.append((head, key_gone))
        named = [k for _, k in heads if k is not None]
        assert len(named) == len(set(named)), "one of a key at a time"
        assert set(named) == {k for k, line in queued.items() if line and k is not None}
    assert all(order == sorted(order) for order in seen.values())
