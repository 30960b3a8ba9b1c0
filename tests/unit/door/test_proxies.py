"""Who a producer is behind proxies that are trusted, and that nobody can say to be another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.door.proxies import HOPS_MAX, Proxies

NETWORKS = ("10.0.0.0/8", "fd00::/8")


def client(text, peer=b"10.0.0.1", field="X-Forwarded-For", name=None):
    values = text if isinstance(text, list) else [text]
    headers = [((name or field).encode(), value.encode("latin-1")) for value in values]
    return Proxies(NETWORKS, field).client(peer, headers).decode()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("198.51.100.1, 203.0.113.5", "203.0.113.5"),
        ("198.51.100.1, 203.0.113.5, 10.0.0.2,10.9.9.9", "203.0.113.5"),
        (["198.51.100.1", "203.0.113.5", "10.0.0.2"], "203.0.113.5"),
        ("203.0.113.5:4711", "203.0.113.5"),
        ("[2001:db8::1]:4711, fd00::2", "2001:db8::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("203.0.113.5, unknown", "10.0.0.1"),
        ("203.0.113.5, nonsense, 10.0.0.2", "10.0.0.2"),
        ("203.0.113.5,", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("1.2.3.4.5", "10.0.0.1"),
        ("203.0.113.5\x00", "10.0.0.1"),
        ("fe80::1%é", "10.0.0.1"),
        ('fe80::1%"; for=evil', "10.0.0.1"),
    ],
)
def test_a_list_is_believed_from_the_right_as_far_as_proxies_are(text, found):
    assert client(text) == found


def test_a_trusted_proxy_may_be_a_neighbour_on_a_link():
    """The zone in its address is this machine's name for the link."""
    near = Proxies(("fe80::/10",), "X-Forwarded-For")
    headers = [(b"X-Forwarded-For", b"203.0.113.5")]
    assert near.client(b"fe80::1%eth0", headers) == b"203.0.113.5"
    assert near.client(b"fe80::1%eth0", []) == b"fe80::1"


def test_who_is_no_trusted_proxy_says_nothing_of_others():
    for peer in (b"192.0.2.7", b"", b"fe80::1%eth0", b"11.0.0.1"):
        assert client("203.0.113.5", peer) == peer.decode()


def test_the_other_field_is_anybodys_to_write():
    assert client("for=203.0.113.5", name="Forwarded") == "10.0.0.1"
    assert client("203.0.113.5", field="Forwarded", name="X-Forwarded-For") == "10.0.0.1"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("for=203.0.113.5", "203.0.113.5"),
        ('For="203.0.113.5:80";proto=https;by=10.0.0.1', "203.0.113.5"),
        ('proto=http; for="[2001:db8::1]:4711" , for=10.0.0.2', "2001:db8::1"),
        ('for=198.51.100.1, for=203.0.113.5;by="a, for=198.51.100.1"', "203.0.113.5"),
        (["for=198.51.100.1", "for=203.0.113.5"], "203.0.113.5"),
        ('for=203.0.113.5, for="_hidden"', "10.0.0.1"),
        ("for=203.0.113.5, for=unknown, for=10.0.0.2", "10.0.0.2"),
        ("by=203.0.113.5", "10.0.0.1"),
        ('for="203.0.113.5', "10.0.0.1"),
        ('proto=https;host="a;for=198.51.100.1";for=203.0.113.5', "203.0.113.5"),
        ('by="a;for=198.51.100.1" ; for=203.0.113.5', "203.0.113.5"),
        ('for="203.0.113.5:_port"', "203.0.113.5"),
        ('for="[2001:db8::1]:_4711.a"', "2001:db8::1"),
        ('for=198.51.100.1;x=", for="[2001:db8::1]"', "10.0.0.1"),
        ('for=198.51.100.1;x="\\", for="[2001:db8::1]"', "10.0.0.1"),
    ],
)
def test_forwarded(text, found):
    """RFC 7239, with what is quoted in it."""
    assert client(text, field="Forwarded") == found


def test_a_list_without_end_is_believed_to_a_bound():
    assert client("203.0.113.5" + ", 10.0.0.2" * (HOPS_MAX + 5)) == "10.0.0.2"


@given(st.text(max_size=60).map(lambda text: text.encode("latin-1", "replace").decode("latin-1")),
       st.sampled_from(["X-Forwarded-For", "Forwarded"]))  # fmt: skip
def test_any_list_has_an_address(text, field):
    assert client(text, field=field)
