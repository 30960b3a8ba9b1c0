"""Signatures as providers send them: that a body is from who knows a secret. Pure.

Decides which bytes are signed, where the signature stands, and which secrets are tried. All of
them are an HMAC over a text that is made of the body, and often of a time and an id; one form
of Standard Webhooks has ed25519 instead. `FORMS` says how each provider has it; its
documentation is named there. Leaves to whoever made `Secrets` where they come from.

Invariants:

- A secret and a signature that would be right are in no text that this code makes, and are
  compared in constant time. A signature that is right for an old time is told to be old, and any
  other one only that it is wrong.
- What is signed can be read in one way: a time is digits, and an id has no dot. Otherwise whoever
  recorded a request could move the bounds between time, id and body, and send it again as another.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from crowd.delivery.forms.signing import SYMMETRIC, Secret
from crowd.door.asked import Known, Reason, Refused
from crowd.errors import SecretUnreadableError
from crowd.policy import Form

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crowd.door.asked import Asked
    from crowd.policy import SignaturePolicy

PUBLIC: Final = b"whpk_"
"""Before a public key of Standard Webhooks, where its secrets have ``whsec_``."""

SIGNATURES_MAX: Final = 16
"""That one request may carry; a provider sends one for each of its secrets."""

PUBLIC_SIGNATURES_MAX: Final = 4
"""Of those, how many a public key is tried with: each time the whole body is hashed anew."""

_SECONDS = re.compile(rb"[0-9]{1,12}\Z")
_ID = re.compile(rb"[^.]+\Z", re.DOTALL)


FORMS: Final = {
    # docs.github.com, "Validating webhook deliveries"
    "github": Form("X-Hub-Signature-256", prefix="sha256="),
    # docs.stripe.com, "Verify webhook signatures manually": t=TIME,v1=HEX,v1=HEX,v0=...
    "stripe": Form("Stripe-Signature", "{timestamp}.{body}", "v1=", list="pairs"),
    # shopify.dev, "Verify webhooks"
    "shopify": Form("X-Shopify-Hmac-SHA256", encoding="base64"),
    # docs.slack.dev, "Verifying requests from Slack"
    "slack": Form(
        "X-Slack-Signature", "v0:{timestamp}:{body}", "v0=", timestamp="X-Slack-Request-Timestamp"
    ),
    # standardwebhooks.com, the specification: v1,BASE64 v1a,BASE64
    "standard": Form(
        "Webhook-Signature", "{id}.{timestamp}.{body}", "v1,", "base64",
        timestamp="Webhook-Timestamp", id="Webhook-Id", list="spaces",
    ),
}  # fmt: skip


class Verifier(Protocol):
    """A secret that can tell whether a signature is its own."""

    def verifies(self, form: Form, content: bytes, given: Sequence[bytes]) -> bool:
        """Tell whether one of `given`, prefixes included, is the signature of `content`."""


class Secrets(Protocol):
    """The secrets of a route's signatures."""

    def current(self) -> Sequence[Verifier]:
        """Return them as they are now; raise SecretUnreadableError if one cannot be had."""


class SharedSecret:
    """A secret that both sides know."""

    __slots__ = ("_secret",)

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def verifies(self, form: Form, content: bytes, given: Sequence[bytes]) -> bool:
        """See `Verifier`. The content is hashed once, however many signatures there are."""
        digest = hmac.digest(self._secret.reveal(), content, form.hash)
        own = form.prefix.encode("ascii")
        if form.encoding == "hex":
            own = own.lower() + digest.hex().encode("ascii")
            given = [each.lower() for each in given]
        else:
            own += b64encode(digest)
        equal = [hmac.compare_digest(own, each) for each in given]
        return any(equal)


class PublicKey:
    """The half of a provider's key that everybody may know (``v1a`` of Standard Webhooks)."""

    __slots__ = ("_key",)

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    def verifies(self, form: Form, content: bytes, given: Sequence[bytes]) -> bool:
        """See `Verifier`. The content is hashed for each of the first `PUBLIC_SIGNATURES_MAX`."""
        del form
        own = [each[4:] for each in given if each.startswith(b"v1a,")]
        return any(self._verifies(content, each) for each in own[:PUBLIC_SIGNATURES_MAX])

    def _verifies(self, content: bytes, encoded: bytes) -> bool:
        try:
            self._key.verify(b64decode(encoded, validate=True), content)
        except (binascii.Error, InvalidSignature):
            return False
        return True


def parser(form: str) -> Callable[[Secret], Verifier]:
    """Return what makes a verifier of a secret's text; it raises ValueError for one that is none."""
    return _standard if form == "standard" else _shared


class Signatures:
    """The signatures of one route."""

    def __init__(self, policy: SignaturePolicy, secrets: Secrets) -> None:
        self._name = policy.name
        form = policy.custom or FORMS[policy.form]
        self._form = form
        self._secrets = secrets
        self._tolerance_s = policy.tolerance_s
        self._header = form.header.lower().encode("ascii")
        self._timestamp = form.timestamp.lower().encode("ascii")
        self._id = form.id.lower().encode("ascii")
        self._parts = re.split(r"(\{[a-z]+\})", form.content)
        self._missing = self._refused(
            f"found no signature; expected one in {form.header}", absent=True
        )
        self._several = self._refused(
            f"found more than one {form.header}, or more than {SIGNATURES_MAX} signatures in it"
        )
        self._timeless = self._refused(
            f"found no time of the signature; expected whole seconds since 1970 in "
            f"{form.timestamp or f't= of {form.header}'}, once"
        )
        self._nameless = self._refused(
            f"found no id; expected one without a dot in {form.id}, once"
        )
        self._wrong = self._refused(f"the signature in {form.header} is not that of this body")
        self._old = self._refused(
            f"the signature's time is more than {policy.tolerance_s:g} s from this node's"
        )

    @staticmethod
    def _refused(detail: str, *, absent: bool = False) -> Refused:
        return Refused(Reason.SIGNATURE, detail, absent=absent)

    def known(self, asked: Asked) -> Known | Refused:
        """Return whose signature a request has. It travels on: the consumer may verify it, too."""
        shown = self._shown(asked)
        if isinstance(shown, Refused):
            return shown
        given, stamp, name = shown
        try:
            secrets = self._secrets.current()
        except SecretUnreadableError:
            return Refused(
                Reason.UNCHECKED, "the secrets of its signatures are not there", retry_after_s=5
            )
        content = self._content(asked.body, stamp, name)
        found = [each.verifies(self._form, content, given) for each in secrets]
        if not any(found):
            return self._wrong
        if stamp and abs(asked.wall_s - int(stamp)) > self._tolerance_s:
            return self._old
        return Known(self._name, asked.headers)

    def _shown(self, asked: Asked) -> tuple[list[bytes], bytes, bytes] | Refused:
        """Return the signatures, and the time and id beside them where the form has them."""
        values = asked.values(self._header)
        if not values:
            return self._missing
        given, stamps = self._read(asked, values[0])
        if len(values) > 1 or len(given) > SIGNATURES_MAX:
            return self._several
        if stamps is not None and (len(stamps) != 1 or not _SECONDS.match(stamps[0])):
            return self._timeless
        ids = asked.values(self._id) if self._id else [b"-"]
        if len(ids) != 1 or not _ID.match(ids[0]):
            return self._nameless
        return (given, stamps[0] if stamps else b"", ids[0]) if given else self._wrong

    def _read(self, asked: Asked, value: bytes) -> tuple[list[bytes], list[bytes] | None]:
        """Return the signatures in a field's value, and the times; None where the form has none."""
        if self._form.list == "pairs":
            prefix = self._form.prefix.encode("ascii")
            parts = [part.strip() for part in value.split(b",")]
            stamps = [part[2:] for part in parts if part.startswith(b"t=")]
            return [part for part in parts if part.startswith(prefix)], stamps
        given = value.split() if self._form.list == "spaces" else [value.strip()]
        if not self._timestamp:
            return given, None
        return given, [each.strip() for each in asked.values(self._timestamp)]

    def _content(self, body: bytes, stamp: bytes, name: bytes) -> bytes:
        """Return what is signed."""
        values = {"{body}": body, "{timestamp}": stamp, "{id}": name}
        return b"".join([values.get(part, part.encode("ascii")) for part in self._parts])


def _shared(secret: Secret) -> Verifier:
    text = secret.reveal().strip(b"\r\n")
    if not text.strip():
        raise ValueError("expected a secret, found nothing")
    return SharedSecret(Secret(text))


def _standard(secret: Secret) -> Verifier:
    found = _parse(secret)
    if not isinstance(found, str):
        return found
    raise ValueError(found)  # here, where no variable holds a part of the secret


def _parse(secret: Secret) -> Verifier | str:
    """Return the verifier that a Standard Webhooks secret makes, or why it is none."""
    text = secret.reveal().strip()
    prefix = next((each for each in (SYMMETRIC, PUBLIC) if text.startswith(each)), None)
    if prefix is None:
        return "expected whsec_ or whpk_ at its start"
    encoded = text[len(prefix) :]
    try:
        content = binascii.a2b_base64(encoded + b"=" * (-len(encoded) % 4), strict_mode=True)
    except binascii.Error:
        return f"expected base64 after {prefix.decode()}"
    if prefix == SYMMETRIC:
        return SharedSecret(Secret(content)) if content else "expected base64 after whsec_"
    if len(content) != 32:
        return "expected base64 of 32 bytes after whpk_"
    return PublicKey(Ed25519PublicKey.from_public_bytes(content))
