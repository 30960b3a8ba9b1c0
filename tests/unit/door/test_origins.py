"""Pages at the door: which may post, and what a browser is told."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.door.asked import Reason, Refused
from crowd.door.origins import Origins
from crowd.policy import CorsPolicy

SHOP = CorsPolicy(
    origins=("https://shop.example", "https://*.shop.example:8443", "null"),
    headers=("Content-Type", "X-Api-Key"),
    expose=("Crowd-Message-Id",),
    credentials=False,
    max_age_s=600,
)


def origins(**changes):
    return Origins(msgspec.structs.replace(SHOP, **changes), ("POST", "PUT"))


def looked(origin, host=b"crowd.test", **changes):
    return origins(**changes).look([(b"Host", host), (b"Origin", origin)])


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        (b"https://shop.example", True),
        (b"https://a.shop.example:8443", True),
        (b"https://a-b.c.shop.example:8443", True),
        (b"https://a_b.shop.example:8443", True),
        (b"null", True),
        (b"http://shop.example", False),
        (b"https://shop.example:8443", False),
        (b"https://.shop.example:8443", False),
        (b"https://evil/.shop.example:8443", False),
        (b"https://evil:1@x.shop.example:8443", False),
        (b"https://*.shop.example:8443", False),
        (b"https://shop.example.evil", False),
        (b"https://evilshop.example", False),
        (b"https://shop.example/", False),
        (b"HTTPS://shop.example", False),
        (b"*", False),
        (b"", False),
    ],
)
def test_an_origin_passes_by_its_whole_text(origin, may):
    assert isinstance(looked(origin), Refused) is not may


def test_an_answer_names_the_page_that_asked():
    assert looked(b"https://shop.example") == (
        (b"Access-Control-Allow-Origin", b"https://shop.example"),
        (b"Access-Control-Expose-Headers", b"Crowd-Message-Id"),
        (b"Vary", b"Origin"),
    )
    assert (b"Access-Control-Allow-Credentials", b"true") in looked(b"null", credentials=True)
    assert looked(b"https://any.test", origins=("*",), expose=()) == (
        (b"Access-Control-Allow-Origin", b"*"),
    )


def test_who_sends_no_origin_is_no_page():
    assert origins().look([(b"Host", b"h")]) == ((b"Vary", b"Origin"),)
    assert origins(origins=("*",)).look([]) == ()


def test_a_page_from_the_same_host_is_no_stranger():
    assert looked(b"http://crowd.test:2104", b"Crowd.test:2104") == ((b"Vary", b"Origin"),)
    assert isinstance(looked(b"http://crowd.test:2105", b"crowd.test:2104"), Refused)
    assert isinstance(looked(b"", b""), Refused)
    assert isinstance(origins().look([(b"Origin", b"null"), (b"Origin", b"null")]), Refused)


def asks(*more, **changes):
    return origins(**changes).preflight(
        [(b"Origin", b"https://shop.example"), (b"Access-Control-Request-Method", b"POST"), *more]
    )


def test_a_browser_that_asks_first_hears_what_the_page_may():
    assert asks() == (
        (b"Access-Control-Allow-Origin", b"https://shop.example"),
        (b"Access-Control-Allow-Methods", b"POST, PUT"),
        (b"Access-Control-Max-Age", b"600"),
        (b"Access-Control-Allow-Headers", b"Content-Type, X-Api-Key"),
        (b"Vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    )
    assert (b"Access-Control-Allow-Credentials", b"true") in asks(credentials=True)


def test_any_field_is_any_that_is_asked_for():
    """A star does not cover Authorization, nor anything beside credentials."""
    wanted = b"authorization,x-other"
    answer = dict(asks((b"Access-Control-Request-Headers", wanted), headers=("*",)))
    assert answer[b"Access-Control-Allow-Headers"] == wanted
    assert b"Access-Control-Allow-Headers" not in dict(asks(headers=("*",)))


@given(st.binary(max_size=40))
def test_any_origin_passes_or_is_refused(origin):
    for found in (looked(origin), origins().preflight([(b"Origin", origin)])):
        assert isinstance(found, tuple) or found.reason is Reason.FOREIGN_PAGE
