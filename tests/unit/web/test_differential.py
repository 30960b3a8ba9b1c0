"""What h11 rejects as a request crowd does not accept, however the bytes are mutated or cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings

from tests.unit.web.hostile.grammar import CUTS, cut, mutated
from tests.unit.web.hostile.table import THEMES
from tests.unit.web.opinions import crowds, h11s, is_comparable


def agree(data: bytes, pieces: list[bytes]) -> None:
    """Fail unless each request that crowd finds is one that h11 finds, too, in the same bytes."""
    if not is_comparable(data):
        return
    ours, _ = crowds(pieces)
    theirs, _ = h11s(data)
    assert len(ours) <= len(theirs), "crowd accepts what h11 rejects"
    for own, other in zip(ours, theirs, strict=False):
        assert own.method == other.method
        assert own.body == other.body
        assert own.target == other.target or other.target.lower().startswith(b"http")


CONNECT = b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"


@example(data=CONNECT + b"0\n\n", sizes=[200])
@example(data=CONNECT + b"3\r\nabc\r\n0\r\n\r\n", sizes=[1])
@settings(max_examples=400, deadline=None)
@given(data=mutated(), sizes=CUTS)
def test_crowd_accepts_nothing_that_h11_rejects(data, sizes):
    agree(data, cut(data, sizes))
    (whole, refusal), (pieced, another) = crowds([data]), crowds(cut(data, sizes))
    assert whole == pieced, "where TCP cuts says nothing"
    assert bool(refusal) == bool(another), "but of two reasons to refuse the first is told"


@pytest.mark.parametrize("theme", THEMES)
def test_the_table_against_h11(theme):
    for case in THEMES[theme]:
        agree(case.data, [case.data])


def test_h11_finds_requests():
    """The second opinion is one: on plain input both find the same."""
    for case in THEMES["sequences"]:
        if case.name in {"two requests in one piece", "chunked, with a length, chunked"}:
            assert crowds([case.data])[0] == h11s(case.data)[0] != []
