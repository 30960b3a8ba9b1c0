"""How often each producer may post."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.door import rate as rates
from crowd.door.asked import Admitted, Asked, Reason
from crowd.door.door import Door
from crowd.door.rate import Rate, neighbourhood
from crowd.policy import KeyPolicy, Policy, RatePolicy


def test_a_burst_and_then_the_rate():
    rate = Rate(RatePolicy(2.0, 3, "address"))
    assert [rate.take(b"a", 10.0) for _ in range(3)] == [None] * 3
    refused = rate.take(b"a", 10.0)
    assert (refused.reason, refused.retry_after_s) == (Reason.RATE, 1)
    assert rate.take(b"b", 10.0) is None
    assert rate.take(b"a", 10.4) is not None
    assert rate.take(b"a", 10.5) is None
    assert rate.take(b"a", 10.6) is not None
    assert [rate.take(b"a", 99.0) for _ in range(4)].count(None) == 3


def test_a_slow_rate_says_how_long():
    rate = Rate(RatePolicy(1 / 60, 1, "address"))
    assert rate.take(b"a", 0.0) is None
    assert rate.take(b"a", 0.5).retry_after_s == 60
    assert rate.take(b"a", 60.0) is None


@given(
    st.sampled_from([0.3, 1.0, 7.0, 100.0]),
    st.integers(1, 20),
    st.lists(st.floats(0, 2, allow_nan=False), max_size=100),
)
def test_over_any_span_no_more_than_the_rate_and_a_burst(per_s, burst, gaps):
    """And who keeps to the rate is never refused."""
    rate, now_s, taken_s = Rate(RatePolicy(per_s, burst, "address")), 0.0, []
    for gap_s in gaps:
        now_s += gap_s
        if rate.take(b"a", now_s) is None:
            taken_s.append(now_s)
    for first, since_s in enumerate(taken_s):
        for last in range(first, len(taken_s)):
            span_s = taken_s[last] - since_s
            assert last - first + 1 <= span_s * per_s + burst + 1e-6
    for step in range(50):
        assert rate.take(b"calm", now_s + step / per_s) is None


def test_a_wait_is_long_enough():
    rate = Rate(RatePolicy(0.7, 2, "address"))
    now_s = 0.0
    for _ in range(50):
        refused = rate.take(b"a", now_s)
        now_s += refused.retry_after_s if refused else 0
        if refused:
            assert rate.take(b"a", now_s) is None


def test_producers_are_remembered_within_a_bound():
    """I7: addresses are everybody's to choose; who posted last is the last to be forgotten."""
    rate = Rate(RatePolicy(0.001, 1, "address"))
    assert rate.take("first", 0.0) is None
    for number in range(rates.PRODUCERS_MAX - 1):
        rate.take(number.to_bytes(4, "big"), 0.0)
    assert rate.take("first", 0.0) is not None
    for number in range(100):
        rate.take(b"x%d" % number, 0.0)
    assert len(rate._even_at_s) == rates.PRODUCERS_MAX
    assert rate.take("first", 0.0) is not None


@pytest.mark.parametrize(
    ("client", "same"),
    [
        (b"192.0.2.7", b"192.0.2.7"),
        (b"::ffff:192.0.2.7", b"192.0.2.7"),
        (b"2001:db8:1:2:3::4", bytes.fromhex("20010db800010002")),
        (b"2001:db8:1:2::%eth0", bytes.fromhex("20010db800010002")),
        (b":::", b":::"),
        (b"", b""),
    ],
)
def test_a_network_of_ipv6_is_one_producer(client, same):
    assert neighbourhood(client) == same


def test_by_name_once_it_is_known_and_by_address_before():
    """A guess counts against an address; a stranger does not use up a producer's rate."""
    keys = (KeyPolicy("shop", ("0" * 64,)),)
    for by, second in (("credential", Reason.NO_CREDENTIAL), ("address", Reason.RATE)):
        policy = Policy("/", keys=keys, key_from=("bearer",), rate=RatePolicy(1.0, 1, by))
        door, asked = Door(policy), Asked(b"POST", [], b"", b"192.0.2.7", 0.0, 0.0)
        assert door.admit(asked).reason is Reason.NO_CREDENTIAL
        assert door.admit(asked).reason is second
    door = Door(Policy("/", rate=RatePolicy(1.0, 1, "address")))
    assert isinstance(door.admit(asked), Admitted)
    assert door.admit(asked).reason is Reason.RATE
    assert math.isclose(door._rate._even_at_s[b"192.0.2.7"], 1.0)


def test_a_guess_that_is_refused_at_its_head_counts_by_address_once():
    """Whether its body is long, of no told length, or waits to be asked for."""
    keys = (KeyPolicy("shop", ("0" * 64,)),)
    policy = Policy("/", keys=keys, key_from=("bearer",), rate=RatePolicy(1.0, 2, "address"))
    asked = Asked(b"POST", [], b"", b"192.0.2.7", 0.0, 0.0)
    for body_bytes, waits in ((10**6, False), (None, False), (1, True)):
        door = Door(policy)
        found = [door.at_head(asked, body_bytes, waits=waits).reason for _ in range(3)]
        assert found == [Reason.NO_CREDENTIAL, Reason.NO_CREDENTIAL, Reason.RATE]
    door = Door(Policy("/", rate=RatePolicy(1.0, 1, "address")))
    assert door.at_head(asked, None, waits=False) is None
    assert isinstance(door.admit(asked), Admitted), "what may pass counts when it is here"
