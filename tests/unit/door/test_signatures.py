"""Signatures as providers send them: their own documented examples first."""

from __future__ import annotations

import base64
import datetime as dt
import hmac
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from crowd.delivery.forms.signing import Secret
from crowd.door.asked import Admitted, Asked, Reason, Refused
from crowd.door.door import Door
from crowd.door.signatures import FORMS, PUBLIC_SIGNATURES_MAX, SIGNATURES_MAX, parser
from crowd.errors import SecretUnreadableError
from crowd.policy import Form, KeyPolicy, Policy, SignaturePolicy

GITHUB_SECRET = b"It's a Secret to Everybody"
SLACK_SECRET, SLACK_TIME = b"8f742231b10e8888abcd99yyyzzz85a5", 1531420618
SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow"
    b"&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner"
    b"&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554"
    b"%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
STANDARD_SECRET, STANDARD_TIME = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1614265330
STANDARD = (
    (b"webhook-id", b"msg_p5jXN8AQM9LWM0D4loKWxJek"),
    (b"webhook-timestamp", b"1614265330"),
    (b"webhook-signature", b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
)
# Stripe and Shopify document how it is made and no example with its secret: these were made with
# `printf %s TEXT | openssl dgst -sha256 -hmac SECRET`, which knows nothing of this code.
STRIPE_SECRET, STRIPE_TIME = b"whsec_test_secret", 1492774577
STRIPE_SIGNED = b"10b0a2815816a45e6b874658b928cae03296be10637343405aaf1e8306ddffdc"
SHOPIFY_SIGNED = b"E9XxLgppVNX12rqWuu0/CN/43MeuZC0xdhRuMq1MPWg="

GOOD = {
    "github": (
        GITHUB_SECRET, b"Hello, World!", 0,
        ((b"X-Hub-Signature-256",
          b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),),
    ),
    "slack": (
        SLACK_SECRET, SLACK_BODY, SLACK_TIME,
        ((b"X-Slack-Request-Timestamp", b"1531420618"),
         (b"X-Slack-Signature",
          b"v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503")),
    ),
    "standard": (STANDARD_SECRET, b'{"test": 2432232314}', STANDARD_TIME, STANDARD),
    "stripe": (
        STRIPE_SECRET, b'{"id": "evt_1"}', STRIPE_TIME,
        ((b"Stripe-Signature", b"t=1492774577,v1=" + STRIPE_SIGNED + b",v0=6ffbb59b"),),
    ),
    "shopify": (b"hush", b'{"id": 1}', 0, ((b"X-Shopify-Hmac-SHA256", SHOPIFY_SIGNED),)),
}  # fmt: skip


class Secrets:
    """Secrets that are there, or not."""

    def __init__(self, form, *texts):
        self.keys = [parser(form)(Secret(text)) for text in texts]
        self.trouble = None

    def current(self):
        if self.trouble is not None:
            raise self.trouble
        return self.keys


def asked(body, headers, wall_s=0.0):
    return Asked(b"POST", list(headers), body, b"", float(wall_s), 0.0)


def door(form, *secrets, custom=None, tolerance_s=300.0):
    policy = SignaturePolicy("shop", form, ("env:A",), tolerance_s, custom)
    return Door(Policy("/", signature=policy), Secrets(form, *secrets))


def refused(found, words):
    assert isinstance(found, Refused)
    assert found.reason is Reason.SIGNATURE
    assert words in found.detail
    return True


@pytest.mark.parametrize("form", GOOD)
def test_a_providers_own_signature_passes_and_travels_on(form):
    """I9: nothing of it is taken away, so that the consumer can verify it, too."""
    secret, body, wall_s, headers = GOOD[form]
    assert door(form, secret).admit(asked(body, headers, wall_s)) == Admitted("shop", [*headers])


@pytest.mark.parametrize("form", GOOD)
def test_another_body_secret_or_signature_is_refused(form):
    secret, body, wall_s, headers = GOOD[form]
    other = b"whsec_" + base64.b64encode(b"x" * 24) if form == "standard" else b"another"
    wrong = "is not that of this body"
    assert refused(door(form, secret).admit(asked(body + b" ", headers, wall_s)), wrong)
    assert refused(door(form, other).admit(asked(body, headers, wall_s)), wrong)
    name, value = headers[-1]
    first = value.replace(b"v1=", b"v1=0") if form == "stripe" else value[:-2] + b"AA"
    for changed in (first, b"", value[3:], b"\xff", b",", b"=" * 40):
        found = door(form, secret).admit(asked(body, [*headers[:-1], (name, changed)], wall_s))
        timeless = form == "stripe" and not changed.startswith(b"t=")
        assert refused(found, "found no time" if timeless else wrong)
    twice = [*headers, headers[-1]]
    assert refused(door(form, secret).admit(asked(body, twice, wall_s)), "found more than one")
    assert refused(
        door(form, secret).admit(asked(body, headers[:-1], wall_s)), "found no signature"
    )


@pytest.mark.parametrize("form", GOOD)
def test_while_a_secret_is_changed_both_hold(form):
    secret, body, wall_s, headers = GOOD[form]
    other = b"whsec_" + base64.b64encode(b"x" * 24) if form == "standard" else b"another"
    for secrets in ((other, secret), (secret, other)):
        assert isinstance(door(form, *secrets).admit(asked(body, headers, wall_s)), Admitted)


@pytest.mark.parametrize("form", ["slack", "standard", "stripe"])
def test_an_old_request_is_not_taken_again(form):
    """Within the tolerance it may be: whoever recorded one can repeat it that long."""
    secret, body, wall_s, headers = GOOD[form]
    for apart_s in (-300, 300):
        assert isinstance(
            door(form, secret).admit(asked(body, headers, wall_s + apart_s)), Admitted
        )
    for apart_s in (-301, 301):
        found = door(form, secret).admit(asked(body, headers, wall_s + apart_s))
        assert refused(found, "time is more than 300 s from")
        forged = door(form, secret).admit(asked(body + b" ", headers, wall_s + apart_s))
        assert refused(forged, "is not that of this body")  # nothing is told of its time


@pytest.mark.parametrize(
    ("text", "words"),
    [(b"v1=%s", "found no time"), (b"t=,v1=%s", "found no time"), (b"t=1x,v1=%s", "found no time"),
     (b"t=-1,v1=%s", "found no time"), (b"t=1492774577.0,v1=%s", "found no time"),
     (b"t=1492774577,t=1492774577,v1=%s", "found no time"),
     (b"t=" + b"9" * 5000 + b",v1=%s", "found no time"),
     (b"t=1492774577", "is not that of this body"),
     (b"t=1492774577,v0=%s", "is not that of this body"),
     (b"t=1492774577 ,v1=x%s", "is not that of this body")],
)  # fmt: skip
def test_stripes_pairs_are_read_strictly(text, words):
    signed = text % STRIPE_SIGNED if b"%s" in text else text
    found = door("stripe", STRIPE_SECRET).admit(
        asked(GOOD["stripe"][1], [(b"Stripe-Signature", signed)], STRIPE_TIME)
    )
    assert refused(found, words)


TIMED = {
    "stripe": (b".{}", lambda stamp, hexed: [(b"Stripe-Signature", b"t=%s,v1=%s" % (stamp, hexed))]),
    "slack": (
        b"v0::{}",
        lambda stamp, hexed: [
            (b"X-Slack-Request-Timestamp", stamp), (b"X-Slack-Signature", b"v0=" + hexed),
        ],
    ),
    "hmac": (b"{}", lambda stamp, hexed: [(b"X-Time", stamp), (b"X-Sign", hexed)]),
}  # fmt: skip


@pytest.mark.parametrize("form", TIMED)
def test_a_signature_without_a_time_is_none(form):
    """Whoever knows the secret signs an empty time, or a recorded request has its time in its body."""
    signed, fields = TIMED[form]
    custom = Form("X-Sign", "{timestamp}{body}", timestamp="X-Time") if form == "hmac" else None
    hexed = hmac.digest(b"secret", signed, "sha256").hex().encode()
    timed = door(form, b"secret", custom=custom)
    for stamp in (b"", b" "):
        assert refused(timed.admit(asked(b"{}", fields(stamp, hexed), 1000)), "found no time")


def standard_signed(content):
    secret = base64.b64decode(STANDARD_SECRET.removeprefix(b"whsec_"))
    return b"v1," + base64.b64encode(hmac.digest(secret, content, "sha256"))


@pytest.mark.parametrize(
    ("ids", "stamp", "body"),
    [
        ([b"msg_1.1614265330.{"], b"", b"well"), ([b"msg_1.1614265330.{"], b"1614265330", b"well"),
        ([b"m.sg"], b"1614265330", b"{}"), ([b""], b"1614265330", b"{}"), ([], b"1614265330", b"{}"),
        ([b"msg_1", b"msg_1"], b"1614265330", b"{}"), ([b"msg_1"], b"", b"{}"),
    ],
)  # fmt: skip
def test_what_standard_webhooks_sign_is_read_in_one_way(ids, stamp, body):
    """The bounds between id, time and body cannot be moved: the same bytes are no other request."""
    signature = standard_signed(b"%s.%s.%s" % (b",".join(ids), stamp, body))
    headers = [*((b"Webhook-Id", each) for each in ids), (b"Webhook-Timestamp", stamp),
               (b"Webhook-Signature", signature)]  # fmt: skip
    found = door("standard", STANDARD_SECRET).admit(asked(body, headers, STANDARD_TIME))
    assert isinstance(found, Refused)
    assert found.detail.startswith(("found no time", "found no id"))


def test_a_body_is_hashed_once_for_each_secret(monkeypatch):
    """Not for each signature that a request brings: that is as many as a stranger likes."""
    hashed = []
    digest = hmac.digest
    monkeypatch.setattr(hmac, "digest", lambda *args: hashed.append(args) or digest(*args))
    several = b"t=1492774577" + b",v1=0" * (SIGNATURES_MAX - 1) + b",v1=" + STRIPE_SIGNED
    found = door("stripe", b"other", STRIPE_SECRET).admit(
        asked(GOOD["stripe"][1], [(b"Stripe-Signature", several)], STRIPE_TIME)
    )
    assert isinstance(found, Admitted)
    assert len(hashed) == 2


def test_a_public_key_is_tried_with_a_few_signatures():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    public = b"whpk_" + base64.b64encode(private.public_key().public_bytes_raw())
    own = b"v1a," + base64.b64encode(private.sign(b"msg_1.1614265330.{}"))
    for others, passes in ((PUBLIC_SIGNATURES_MAX - 1, True), (PUBLIC_SIGNATURES_MAX, False)):
        signatures = b" ".join([b"v1a,AAAA"] * others + [own])
        headers = [(b"Webhook-Id", b"msg_1"), (b"Webhook-Timestamp", b"1614265330"),
                   (b"Webhook-Signature", signatures)]  # fmt: skip
        found = door("standard", public).admit(asked(b"{}", headers, STANDARD_TIME))
        assert isinstance(found, Admitted) is passes


def test_one_of_several_signatures_is_enough_within_a_bound():
    secret, body, wall_s, headers = GOOD["standard"]
    own = headers[-1][1]
    for others, passes in ((SIGNATURES_MAX - 1, True), (SIGNATURES_MAX, False)):
        several = b" ".join([b"v1,AAAA"] * others + [own])
        changed = [*headers[:-1], (b"webhook-signature", several)]
        found = door("standard", secret).admit(asked(body, changed, wall_s))
        assert isinstance(found, Admitted) is passes


def test_what_the_reference_library_signs_passes():
    now = dt.datetime.now(dt.UTC)
    signed = Webhook(STANDARD_SECRET.decode()).sign("msg_1", now, "{}")
    headers = [
        (b"Webhook-Id", b"msg_1"),
        (b"Webhook-Timestamp", b"%d" % int(now.timestamp())),
        (b"Webhook-Signature", signed.encode()),
    ]
    assert isinstance(
        door("standard", STANDARD_SECRET).admit(asked(b"{}", headers, now.timestamp())), Admitted
    )


def test_what_crowd_signs_itself_passes():
    """Also with the half of a key that may be known to everybody (v1a, ed25519)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from crowd.delivery.forms.signing import parse_key, signature_headers

    private = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    own = parse_key(Secret(b"whsk_" + base64.b64encode(b"k" * 32)))
    public = b"whpk_" + base64.b64encode(private.public_key().public_bytes_raw())
    headers = signature_headers([own], b"msg_1", 1_000_000, b"{}")
    keyed = door("standard", STANDARD_SECRET, public)
    assert isinstance(keyed.admit(asked(b"{}", headers, 1_000_000)), Admitted)
    assert refused(keyed.admit(asked(b"{} ", headers, 1_000_000)), "is not that of this body")
    v1 = [*headers[:-1], (b"Webhook-Signature", headers[-1][1].replace(b"v1a,", b"v1,"))]
    assert refused(keyed.admit(asked(b"{}", v1, 1_000_000)), "is not that of this body")


@pytest.mark.parametrize("name", ["sha256", "sha512", "sha1"])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_a_form_that_is_spelled_out(name, encoding):
    form = Form("X-Sign", "v2|{timestamp}|{body}", "sign:", encoding, hash=name, timestamp="X-Time")
    digest = hmac.digest(b"secret", b"v2|1000|{}", name)
    text = digest.hex().upper().encode() if encoding == "hex" else base64.b64encode(digest)
    headers = [(b"x-sign", b"sign:" + text), (b"X-TIME", b"1000")]
    spelled = door("hmac", b"secret\n", custom=form)
    assert isinstance(spelled.admit(asked(b"{}", headers, 1000)), Admitted)
    assert refused(spelled.admit(asked(b"{}", [(b"x-sign", text), headers[1]], 1000)), "not that")
    assert refused(spelled.admit(asked(b"{}", headers[:1], 1000)), "found no time")
    assert refused(spelled.admit(asked(b"{}", [*headers, headers[1]], 1000)), "found no time")


def test_a_prefix_is_what_the_file_says():
    """Its case as it stands there with base64; hexadecimal has none, and nor has its prefix."""
    digest = hmac.digest(b"s", b"{}", "sha256")
    for encoding, text, others in (
        ("base64", base64.b64encode(digest), False), ("hex", digest.hex().encode(), True),
    ):  # fmt: skip
        form = Form("X-Sign", prefix="HMAC-SHA256=", encoding=encoding)
        for prefix, passes in ((b"HMAC-SHA256=", True), (b"hmac-sha256=", others), (b"", False)):
            found = door("hmac", b"s", custom=form).admit(
                asked(b"{}", [(b"X-Sign", prefix + text)])
            )
            assert isinstance(found, Admitted) is passes


def test_braces_in_a_body_are_no_template():
    form = Form("X-Sign")
    digest = hmac.digest(b"s", b"{timestamp}{body}", "sha256").hex().encode()
    found = door("hmac", b"s", custom=form).admit(
        asked(b"{timestamp}{body}", [(b"x-sign", digest)])
    )
    assert isinstance(found, Admitted)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("github", b""), ("github", b"\n"), ("slack", b"  "), ("hmac", b"\r\n"),
        ("standard", b""), ("standard", b"secret"), ("standard", b"whsec_"),
        ("standard", b"whsec_!"), ("standard", b"whpk_AAAA"), ("standard", b"whsk_AAAA"),
    ],
)  # fmt: skip
def test_a_secret_that_is_none_is_told_without_it(form, text):
    with pytest.raises(ValueError, match="expected") as caught:
        parser(form)(Secret(text))
    hidden = text.decode().strip().removeprefix("whsec_").removeprefix("whpk_")
    assert not hidden or hidden not in str(caught.value).replace("a secret", "")


def test_nothing_passes_while_a_secret_cannot_be_read():
    """Closed, and for a moment only: a provider sends it again."""
    secret, body, wall_s, headers = GOOD["github"]
    secrets = Secrets("github", secret)
    policy = SignaturePolicy("shop", "github", ("env:A",), 300.0, None)
    closed = Door(Policy("/", signature=policy), secrets)
    secrets.trouble = SecretUnreadableError("env:A", "there is no such variable")
    found = closed.admit(asked(body, headers, wall_s))
    assert (found.reason, found.retry_after_s) == (Reason.UNCHECKED, 5)
    assert "env:A" not in found.detail
    secrets.trouble = None
    assert isinstance(closed.admit(asked(body, headers, wall_s)), Admitted)


def test_secrets_are_in_no_text():
    for form, (secret, *_) in GOOD.items():
        made = door(form, secret)
        for thing in (made, made._proofs[0], *made._proofs[0]._secrets.keys):
            assert secret.decode() not in repr(thing)


def test_all_proofs_are_asked_for_unless_any_will_do():
    from tests.unit.door.test_keys import KEY, PRODUCERS

    secret, body, wall_s, headers = GOOD["github"]
    signature = SignaturePolicy("github", "github", ("env:A",), 300.0, None)
    policy = Policy("/", keys=PRODUCERS, key_from=("bearer",), signature=signature)
    shown = (b"Authorization", b"Bearer " + KEY)
    both, signed, keyed = [shown, *headers], headers, [shown]
    every = Door(policy, Secrets("github", secret))
    some = Door(msgspec.structs.replace(policy, require="any"), Secrets("github", secret))
    assert every.admit(asked(body, both, wall_s)) == Admitted("shop-a", [*headers])
    assert every.admit(asked(body, signed, wall_s)).reason is Reason.NO_CREDENTIAL
    assert every.admit(asked(body, keyed, wall_s)).reason is Reason.SIGNATURE
    assert some.admit(asked(body, both, wall_s)).credential == "shop-a"
    assert some.admit(asked(body, signed, wall_s)).credential == "github"
    assert some.admit(asked(body, keyed, wall_s)) == Admitted("shop-a", [])
    assert some.admit(asked(body, [], wall_s)).reason is Reason.NO_CREDENTIAL
    assert some.at_head(asked(b"", [], wall_s), 10**6, waits=False) is None


def test_where_any_proof_will_do_what_was_shown_decides_what_is_told():
    """And what cannot be checked now may be good: the provider is to come again."""
    from tests.unit.door.test_keys import KEY, PRODUCERS

    secret, body, wall_s, headers = GOOD["github"]
    secrets = Secrets("github", secret)
    signature = SignaturePolicy("github", "github", ("env:A",), 300.0, None)
    policy = Policy("/", require="any", keys=PRODUCERS, key_from=("bearer",), signature=signature)
    some = Door(policy, secrets)
    forged = some.admit(asked(body + b" ", headers, wall_s))
    assert refused(forged, "is not that of this body")
    wrong_key = (b"Authorization", b"Bearer another")
    assert some.admit(asked(body, [wrong_key], wall_s)).reason is Reason.UNKNOWN_CREDENTIAL
    secrets.trouble = SecretUnreadableError("env:A", "there is no such variable")
    assert some.admit(asked(body, headers, wall_s)).reason is Reason.UNCHECKED
    assert some.admit(asked(body, [wrong_key, *headers], wall_s)).reason is Reason.UNCHECKED
    assert some.admit(asked(body, [], wall_s)).reason is Reason.NO_CREDENTIAL
    keyed = asked(body, [(b"Authorization", b"Bearer " + KEY), *headers], wall_s)
    assert isinstance(some.admit(keyed), Admitted)


def test_a_key_does_not_travel_on_where_a_signature_let_it_pass():
    """A field that a key was looked for in is crowd's own, be the key old, mistyped or one of two."""
    from tests.unit.door.test_keys import KEY, PRODUCERS

    secret, body, wall_s, headers = GOOD["github"]
    signature = SignaturePolicy("github", "github", ("env:A",), 300.0, None)
    policy = Policy(
        "/", require="any", keys=PRODUCERS, key_from=("bearer", "header:x-api-key"),
        signature=signature,
    )  # fmt: skip
    some = Door(policy, Secrets("github", secret))
    bearer, field = (b"Authorization", b"Bearer " + KEY), (b"X-Api-Key", KEY)
    for shown in ([bearer, field], [(b"authorization", b"bearer old")], [(b"x-api-key", b"")]):
        found = some.admit(asked(body, [*shown, *headers], wall_s))
        assert found == Admitted("github", [*headers])
    others = (b"Authorization", b"Digest a")  # nobody's key: it is for the consumer
    assert some.admit(asked(body, [others, *headers], wall_s)).headers == [others, *headers]


@given(
    st.sampled_from(sorted(FORMS)),
    st.binary(max_size=80),
    st.binary(max_size=20) | st.integers().map(lambda number: str(number).encode()),
)
def test_any_signature_passes_or_is_refused(form, value, stamp):
    """Nobody guesses one, and nothing that is sent makes a fault here."""
    secret, body, wall_s, _ = GOOD[form]
    signer = FORMS[form]
    headers = [(signer.header.encode(), value), (signer.timestamp.encode(), stamp),
               (signer.id.encode(), stamp)]  # fmt: skip
    for prefix in (b"", signer.prefix.encode(), b"t=" + stamp + b",v1="):
        headers[0] = (headers[0][0], prefix + value)
        assert isinstance(door(form, secret).admit(asked(body, headers, wall_s)), Refused)


def test_forms_have_what_they_use():
    for form in FORMS.values():
        assert ("{id}" in form.content) == bool(form.id)
        assert ("{timestamp}" in form.content) == bool(form.timestamp or form.list == "pairs")


@pytest.mark.parametrize("require", ["all", "any"])
def test_who_asks_what_became_of_a_message_signs_nothing(require):
    """By signatures alone nobody is known who asks; beside a key, the key is enough."""
    policy = Policy("/x", require=require, signature=SignaturePolicy("g", "github", (), 1.0, None))
    keyed = msgspec.structs.replace(
        policy, keys=(KeyPolicy("shop", (sha256(b"crowd_one").hexdigest(),)),), key_from=("bearer",)
    )
    shown = Asked(b"GET", [(b"Authorization", b"Bearer crowd_one")], b"", b"192.0.2.7", 0.0, 0.0)
    alone = Door(policy, NoSecrets()).admit_asker(shown)
    assert isinstance(alone, Refused)
    assert alone.reason is Reason.SIGNATURE
    assert isinstance(Door(keyed, NoSecrets()).admit_asker(shown), Admitted)
    unknown = Door(keyed, NoSecrets()).admit_asker(msgspec.structs.replace(shown, headers=[]))
    assert isinstance(unknown, Refused)
    assert unknown.reason is Reason.NO_CREDENTIAL


class NoSecrets:
    """Secrets that nobody may look at."""
