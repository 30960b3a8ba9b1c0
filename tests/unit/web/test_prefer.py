"""``Prefer: wait``: what is read of it, and what travels on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.web.prefer import read_wait


@pytest.mark.parametrize(
    ("value", "wait_s", "rest"),
    [
        (b"wait=10", 10, None),
        (b"Wait = 10", 10, None),
        (b'wait="10"; why=patience', 10, None),
        (b"respond-async, wait=10", 10, b"respond-async"),
        (b"wait=10, respond-async;a=b,return=minimal", 10, b"respond-async;a=b, return=minimal"),
        (b"wait=3, wait=4", 3, None),
        (b"wait=0", 0, None),
        (b"handling=strict", None, b"handling=strict"),
        (b'a="x, wait=3"', None, b'a="x, wait=3"'),
        (b'a="\\", wait=3"', None, b'a="\\", wait=3"'),
        (b"wait", None, b"wait"),
        (b"wait=ten", None, b"wait=ten"),
        (b"wait=-1", None, b"wait=-1"),
        (b"wait=1.5", None, b"wait=1.5"),
        (b"wait=9999999999", 999_999_999, None),
        (b'wait="%b"' % (b"9" * 5_000), 999_999_999, None),
        (b"wait=%b7" % (b"0" * 5_000), 7, None),
        (b"wait=00", 0, None),
        (b"awaits=3", None, b"awaits=3"),
        (b"", None, b""),
    ],
)
def test_a_wait_is_for_crowd_and_all_else_travels_on(value, wait_s, rest):
    other = (b"X-A", b"wait=9")
    kept = [] if rest is None else [(b"Prefer", rest)]
    assert read_wait([other, (b"Prefer", value), other]) == (wait_s, [other, *kept, other])


def test_of_several_fields_the_first_wait_counts():
    """RFC 7240, section 2."""
    fields = [(b"Prefer", b"wait=ten"), (b"prefer", b"wait=5"), (b"Prefer", b"wait=6, a")]
    assert read_wait(fields) == (5, [(b"Prefer", b"wait=ten"), (b"Prefer", b"a")])


@given(st.lists(st.sampled_from([b"wait", b"=", b"7", b'"', b",", b";", b"\\", b" ", b"a"])))
def test_whatever_stands_there_is_read_in_one_way(pieces):
    """What is left has no wait: read again it says the same, and is left alone."""
    _, rest = read_wait([(b"Prefer", b"".join(pieces))])
    assert read_wait(rest) == (None, rest)
