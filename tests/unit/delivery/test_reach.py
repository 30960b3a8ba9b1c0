"""Which addresses a consumer may be at."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.definition import Reach
from crowd.delivery.reach import Bounds, numeric

DEFAULT = Bounds(Reach())
INSIDE = Bounds(Reach(allow=("10.0.0.0/8", "fd12::/16")))


def refusal(bounds, text):
    return bounds.refusal(ip_address(text))


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",  # the clouds' metadata
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::169.254.169.254",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::1",  # Teredo, by its server
        "2001:0:808:808:0:0:5601:5601",  # and by its client, which is written inverted
    ],
)
def test_by_default_no_machine_is_asked_about_itself(address):
    """Link-local addresses and the clouds' metadata are refused, however they are written."""
    assert " of reach.deny" in refusal(DEFAULT, address)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "8.8.8.8", "::1", "fd12::1", "2001:db8::1",
     "::ffff:10.0.0.1", "64:ff9b::8.8.8.8", "2002:808:808::1", "169.253.255.255", "169.255.0.0"],
)  # fmt: skip
def test_by_default_anything_else_is_allowed(address):
    """Consumers mostly live in private networks."""
    assert refusal(DEFAULT, address) is None


@pytest.mark.parametrize("address", ["10.0.0.0", "10.255.255.255", "fd12::5", "::ffff:10.1.2.3"])
def test_what_allow_names(address):
    """With `allow`, its networks are open; a mapped IPv4 address is that IPv4 address."""
    assert refusal(INSIDE, address) is None


@pytest.mark.parametrize(
    "address",
    ["11.0.0.0", "127.0.0.1", "fd13::1", "::1", "64:ff9b::10.0.0.1", "2002:a00:1::", "::10.0.0.1",
     "::ffff:11.0.0.1"],
)  # fmt: skip
def test_what_allow_does_not_name(address):
    """And nothing else is, not by way of another network that would translate either."""
    assert refusal(INSIDE, address) == f"{ip_address(address)} is in no network of reach.allow"


def test_allow_decides_alone():
    """Who names a network means it, though it is one that is denied by default."""
    bounds = Bounds(Reach(allow=("169.254.7.0/24",)))
    assert refusal(bounds, "169.254.7.7") is None
    assert refusal(bounds, "169.254.8.8") is not None


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "127.0.0.1", "::1", "::ffff:0.0.0.0"])
def test_this_machine_has_other_names(address):
    """Who denies loopback denies the unspecified address, which leads there too."""
    bounds = Bounds(Reach(deny=("127.0.0.0/8", "::1/128")))
    assert refusal(bounds, address) is not None


def test_without_any_rule():
    """`deny = []` means that."""
    assert refusal(Bounds(Reach(deny=())), "169.254.169.254") is None


def test_the_words_name_address_and_rule():
    """An operator sees which address it was, what it stands for, and which rule refused it."""
    assert refusal(DEFAULT, "169.254.0.9") == "169.254.0.9 is in 169.254.0.0/16 of reach.deny"
    words = refusal(DEFAULT, "64:ff9b::a9fe:9")
    assert words == "64:ff9b::a9fe:9 (as 169.254.0.9) is in 169.254.0.0/16 of reach.deny"


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f000001", "2130706433", "1.2.3.4.", ""])
def test_what_is_not_in_figures_is_a_name(host):
    """Only a resolver knows what these mean; what it says is judged."""
    assert numeric(host) is None


def test_networks_that_are_none():
    """A definition that did not come from a checked file is refused whole."""
    with pytest.raises(ValueError, match="network"):
        Bounds(Reach(deny=("not-a-network",)))


@given(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 32))
def test_an_ipv4_address_is_judged_alike_in_every_dress(address, length):
    """Property: what is denied is denied mapped, translated and tunnelled as well."""
    network = ip_network((address, length), strict=False)
    denying, allowing = Bounds(Reach(deny=(str(network),))), Bounds(Reach(allow=(str(network),)))
    dresses = [
        address,
        IPv6Address(0xFFFF << 32 | int(address)),
        IPv6Address(0x64FF9B << 96 | int(address)),
        IPv6Address(0x2002 << 112 | int(address) << 80),
    ]
    assert all(denying.refusal(dress) is not None for dress in dresses)
    assert [allowing.refusal(dress) is None for dress in dresses] == [True, True, False, False]


@given(st.ip_addresses())
def test_any_address_has_a_verdict(address):
    """Property: allowed by default, or refused in words that name it."""
    words = DEFAULT.refusal(address)
    assert words is None or words.startswith(str(address))
