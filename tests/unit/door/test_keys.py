"""Keys at the door: whose they are, where they stand, and that they go no further."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.door.asked import Admitted, Asked, Known, Reason, Refused
from crowd.door.door import EARLY_BYTES, Door
from crowd.door.keys import Keys
from crowd.policy import (
    CertificatePolicy,
    ContentPolicy,
    CorsPolicy,
    KeyPolicy,
    Policy,
    RatePolicy,
    SignaturePolicy,
)

KEY, OTHER = b"crowd_one", b"crowd_two"


def hashed(*keys):
    return tuple(sha256(key).hexdigest() for key in keys)


PRODUCERS = (KeyPolicy("shop-a", hashed(KEY, b"crowd_old")), KeyPolicy("shop-b", hashed(OTHER)))
EVERYWHERE = ("bearer", "basic", "header:x-api-key")


def asked(*headers, body=b"x"):
    return Asked(b"POST", [(b"Host", b"h"), *headers], body, b"192.0.2.7", 0.0, 0.0)


def basic(text):
    return b"Authorization", b"Basic " + base64.b64encode(text)


def known(*headers, places=EVERYWHERE):
    return Keys(PRODUCERS, places).known(asked(*headers))


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ((b"Authorization", b"Bearer " + KEY), "shop-a"),
        ((b"authorization", b"bEARER  " + KEY + b" "), "shop-a"),
        ((b"Authorization", b"Bearer crowd_old"), "shop-a"),
        ((b"Authorization", b"Bearer " + OTHER), "shop-b"),
        (basic(b"shop-b:" + OTHER), "shop-b"),
        ((b"X-API-Key", KEY), "shop-a"),
    ],
)
def test_a_key_says_who_posts_and_goes_no_further(field, name):
    found = known(field, (b"X-After", b"1"))
    assert found == Known(name, [(b"Host", b"h"), (b"X-After", b"1")])


@pytest.mark.parametrize(
    "field",
    [
        (b"Authorization", b"Bearer"),
        (b"Authorization", b"Bearer "),
        (b"Authorization", b"Bearer crowd_on"),
        (b"Authorization", b"Bearer " + hashed(KEY)[0].encode()),
        (b"Authorization", b"Bearer \xff"),
        (b"X-Api-Key", b""),
        basic(b"shop-b:" + KEY),
        basic(b":" + KEY),
        basic(b"\0:" + KEY),
        basic(b"shop-a"),
        basic(b"shop-a:"),
        (b"Authorization", b"Basic c2hvcC1h!"),
    ],
)
def test_every_wrong_key_gets_the_same_answer(field):
    """Whoever guesses learns nothing from how a guess is refused."""
    refused = known(field)
    assert refused.reason is Reason.UNKNOWN_CREDENTIAL
    assert refused == known((b"X-Api-Key", b"nothing like a key"))


def test_no_key_is_nobodys():
    """A file with the hash of nothing, which `crowd check` refuses, lets nobody in either."""
    keys = Keys([KeyPolicy("shop", hashed(b""))], EVERYWHERE)
    for field in ((b"Authorization", b"Bearer "), (b"X-Api-Key", b""), basic(b"shop:")):
        assert keys.known(asked(field)).reason is Reason.UNKNOWN_CREDENTIAL


def test_who_shows_no_key_hears_what_is_expected():
    refused = known()
    assert refused.reason is Reason.NO_CREDENTIAL
    assert refused.detail == (
        "found no key; expected 'Authorization: Bearer KEY' or 'Authorization: Basic' with a key "
        "or a key in x-api-key"
    )
    assert refused.headers == (
        (b"WWW-Authenticate", b'Bearer realm="crowd"'),
        (b"WWW-Authenticate", b'Basic realm="crowd", charset="UTF-8"'),
    )
    (only,) = known(places=("header:x-api-key",)).headers
    assert only[0] == b"WWW-Authenticate"


def test_two_keys_at_once_are_refused():
    """Which of them would count is nothing that a producer should have to know."""
    refused = known((b"Authorization", b"Bearer " + KEY), (b"X-Api-Key", KEY))
    assert (refused.reason, refused.detail) == (
        Reason.UNKNOWN_CREDENTIAL, "found more than one key; expected one",
    )  # fmt: skip


def test_what_is_meant_for_the_consumer_passes():
    """I9: an Authorization of another scheme, or where no key is looked for, is the consumer's."""
    digest = (b"Authorization", b"Digest username=x")
    found = known(digest, (b"X-Api-Key", KEY))
    assert found.headers == [(b"Host", b"h"), digest]
    bearer = (b"Authorization", b"Bearer theirs")
    found = known(bearer, (b"X-Api-Key", KEY), places=("header:x-api-key",))
    assert found.headers == [(b"Host", b"h"), bearer]


@given(st.binary(max_size=40), st.sampled_from([b"", b"Bearer ", b"Basic ", b"basic", b"Digest "]))
def test_any_authorization_is_known_or_refused(value, scheme):
    found = known((b"Authorization", scheme + value))
    assert isinstance(found, Refused)


def test_a_door_without_a_policy_of_who_posts_knows_nobody():
    assert Door(Policy("/leads")).admit(asked()) == Admitted("", [(b"Host", b"h")])


def test_a_large_body_is_refused_before_it_is_read():
    """A stranger does not fill a node's memory; a small body is read, and the connection kept."""
    door = Door(Policy("/leads", keys=PRODUCERS, key_from=("bearer",)))
    stranger, producer = asked(), asked((b"Authorization", b"Bearer " + KEY))
    assert door.at_head(stranger, EARLY_BYTES, waits=False) is None
    for size, waits in ((EARLY_BYTES + 1, False), (1, True)):
        assert door.at_head(stranger, size, waits=waits).reason is Reason.NO_CREDENTIAL
        assert door.at_head(producer, size, waits=waits) is None
    assert door.admit(stranger).reason is Reason.NO_CREDENTIAL
    assert door.admit(producer).credential == "shop-a"


def test_what_keys_say_is_known_for_the_next_request_of_a_connection():
    """Without asking again, where keys are all that a door looks at; in other fields it is not."""
    door = Door(Policy("/leads", keys=PRODUCERS, key_from=("bearer",)))
    first = asked((b"Authorization", b"Bearer " + KEY), (b"Idempotency-Key", b"1"))
    assert door.admit_known(first.headers, first.found) is None, "nobody has looked yet"
    verdict = door.admit(first)
    assert door.admit_known(first.headers, first.found) == verdict
    after = [*first.headers[:-1], (b"Idempotency-Key", b"2")]
    assert door.admit_known(after, first.found) == Admitted("shop-a", [after[0], after[2]])
    again = Door(Policy("/leads", keys=PRODUCERS[1:], key_from=("bearer",)))
    assert again.admit_known(after, first.found) is None, "another file may say otherwise"


@pytest.mark.parametrize(
    "policy",
    [
        {"signature": SignaturePolicy("theirs", "github", ("env:NONE",), 300.0, None)},
        {"certificates": (CertificatePolicy("shop-a", ("dns:a.test",)),), "require": "any"},
        {"cors": CorsPolicy(("*",), (), (), credentials=False, max_age_s=1)},
        {"content": ContentPolicy(("text/plain",), False, 9, False, None, None, 9, 9, 999, 9)},
        {"rate": RatePolicy(1.0, 1, "credential")},
        {"rate": RatePolicy(1.0, 1, "address")},
        {"many": True},
        {"idempotency": "event"},
    ],
    ids="-".join,
)
def test_a_door_that_looks_at_more_is_asked_each_time(policy):
    door = Door(
        Policy("/leads", keys=PRODUCERS, key_from=("bearer",), **policy), secrets=lambda: [b"s"]
    )
    first = asked((b"Authorization", b"Bearer " + KEY), (b"Content-Type", b"text/plain"))
    door.admit(first)
    assert first.found, "keys keep what they found"
    assert door.admit_known(first.headers, first.found) is None
