"""Signatures, against the `standardwebhooks` package and the published vectors."""

from __future__ import annotations

import base64
import copy
import pickle
import time
import traceback
from datetime import UTC, datetime

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import assume, given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from crowd.delivery.forms.signing import Secret, as_signed, parse_key, signature_headers
from crowd.message import Message

# The vectors that implementations of the specification share.
ID, STAMP, BODY = b"msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
SYMMETRIC = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SYMMETRIC_SIGNATURE = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
PAIR = b"6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
ASYMMETRIC = b"whsk_" + PAIR
ASYMMETRIC_SIGNATURE = (
    b"v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
)


def key(text):
    return parse_key(Secret(text))


def signatures(keys, body=BODY, stamp=STAMP):
    return dict(signature_headers(keys, ID, stamp, body))[b"Webhook-Signature"]


def test_the_published_vectors():
    """Both versions, byte for byte, and in the order of the keys."""
    assert signatures([key(SYMMETRIC)]) == SYMMETRIC_SIGNATURE
    assert signatures([key(ASYMMETRIC)]) == ASYMMETRIC_SIGNATURE
    both = signature_headers([key(ASYMMETRIC), key(SYMMETRIC)], ID, STAMP, BODY)
    assert both == (
        (b"Webhook-Id", ID),
        (b"Webhook-Timestamp", b"1614265330"),
        (b"Webhook-Signature", ASYMMETRIC_SIGNATURE + b" " + SYMMETRIC_SIGNATURE),
    )


def test_an_ed25519_key_by_its_seed():
    """The private key alone does as well as with its public one."""
    seed = base64.b64encode(base64.b64decode(PAIR)[:32])
    assert signatures([key(b"whsk_" + seed)]) == ASYMMETRIC_SIGNATURE


SECRETS = st.binary(min_size=24, max_size=64).map(lambda raw: b"whsec_" + base64.b64encode(raw))


@given(SECRETS, st.text(max_size=60), st.integers(0, 2**33), st.sampled_from([b"", b"\n", b" "]))
def test_v1_is_what_the_package_signs(secret, text, stamp, end):
    """For any secret, time and body, with or without a newline behind the secret."""
    ours = signatures([key(secret + end)], text.encode("utf-8", "surrogatepass"), stamp)
    if not text.isprintable():
        return
    theirs = Webhook(secret.decode()).sign(ID.decode(), datetime.fromtimestamp(stamp, UTC), text)
    assert ours == theirs.encode()


@given(st.lists(SECRETS, min_size=1, max_size=8, unique=True), st.data())
def test_whoever_knows_one_secret_is_content(secrets, data):
    """While a secret changes, the old and the new one both verify; a third one does not."""
    assume(b"whsec_" + b"B" * 32 not in secrets)
    stored = Message(b"POST", b"/", (), b'{"a": 1}', 1, b"", b"http")
    made = as_signed(stored, [key(each) for each in secrets], b"m-1", int(time.time()))
    headers = {name.decode(): value.decode() for name, value in made.headers}
    known = data.draw(st.sampled_from(secrets))
    assert Webhook(known.decode()).verify(made.body, headers) == {"a": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "B" * 32).verify(made.body, headers)


def test_v1a_is_verified_by_the_public_key():
    """Over id, time and body: another of any of them does not verify."""
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(PAIR)[32:])
    made = base64.b64decode(signatures([key(ASYMMETRIC)], b"\xff\x00").removeprefix(b"v1a,"))
    public.verify(made, ID + b".1614265330.\xff\x00")
    for other in (ID + b".1614265331.\xff\x00", b"x.1614265330.\xff\x00", ID + b".1614265330.\xff"):
        with pytest.raises(InvalidSignature):
            public.verify(made, other)


def test_a_producers_own_signature_is_replaced():
    """A consumer that has a secret finds one id, one time and one signature: ours."""
    stored = Message(
        b"POST", b"/", ((b"webhook-id", b"theirs"), (b"WEBHOOK-SIGNATURE", b"v1,x"), (b"A", b"1"),
        (b"Webhook-Timestamp", b"1"), (b"Webhook-Other", b"2")), BODY, 1, b"", b"http",
    )  # fmt: skip
    assert as_signed(stored, [key(SYMMETRIC)], ID, STAMP).headers == (
        (b"A", b"1"),
        (b"Webhook-Other", b"2"),
        (b"Webhook-Id", ID),
        (b"Webhook-Timestamp", b"1614265330"),
        (b"Webhook-Signature", SYMMETRIC_SIGNATURE),
    )


BAD = [
    (b"", "expected whsec_ or whsk_"),
    (b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "expected whsec_ or whsk_"),
    (b"whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "expected whsec_ or whsk_"),
    (b"whsec_", "24 to 64 bytes"),
    (b"whsec_" + base64.b64encode(b"s" * 23), "24 to 64 bytes"),
    (b"whsec_" + base64.b64encode(b"s" * 65), "24 to 64 bytes"),
    (b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa!w", "expected base64"),
    (b"whsec_MfKQ9r8GKYqrTwjU PD8ILPZIo2LaLaSw", "expected base64"),
    (b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_x", "expected base64"),
    (b"whsec_\xff\xff\xff\xff", "expected base64"),
    (b"whsk_" + base64.b64encode(b"s" * 31), "32 or 64 bytes"),
    (b"whsk_" + base64.b64encode(b"s" * 64), "second half"),
    (b"whsk_%%%%", "expected base64"),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_what_is_no_secret(text, words):
    """The error says what is expected, and nothing of what was found."""
    with pytest.raises(ValueError, match=words) as caught:
        key(text)
    shown = "".join(traceback.format_exception(caught.value)[1:])
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    shown += repr(
        [frame.f_locals for frame in frames if "crowd/delivery" in frame.f_code.co_filename]
    )
    assert "parse_key" in shown
    content = text.partition(b"_")[2]
    assert not content or repr(content)[2:-1] not in shown


@given(st.binary(max_size=90))
def test_any_bytes_are_a_key_or_a_value_error(text):
    """The parser has one error."""
    for prefix in (b"", b"whsec_", b"whsk_"):
        try:
            key(prefix + text)
        except ValueError:
            pass


def test_a_secret_shows_nothing():
    """Not in text, not in a format, not in a pickle or a copy of one."""
    secret, made = Secret(SYMMETRIC), (key(SYMMETRIC), key(ASYMMETRIC))
    shown = f"{secret} {secret!r} {[secret]} {made} {vars(type(secret)).get('__dict__')}"
    assert "Secret(…)" in shown
    for part in (SYMMETRIC[6:], PAIR, base64.b64decode(SYMMETRIC[6:])):
        assert part.decode("latin-1") not in shown
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            take(secret)
