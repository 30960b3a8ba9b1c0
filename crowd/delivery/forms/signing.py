"""Signatures of what is sent: Standard Webhooks, ``v1`` (HMAC-SHA256) and ``v1a`` (ed25519).

Decides what a secret may be and what is signed. Pure: the time is an argument. Leaves where
secrets are kept to ``crowd/delivery/secrets.py``. Only here, in delivery's pure part, is
cryptography named.

Invariant: a secret is in no text that this code makes. Its types show nothing of it, errors
say what is wrong with it and nothing of what it is, and no frame of a traceback holds it.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import b64encode
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.message import Message

SYMMETRIC: Final = b"whsec_"
ASYMMETRIC: Final = b"whsk_"

KEY_BYTES: Final = (24, 64)
"""How long a symmetric key is, in bytes: what the specification asks for."""

_SEED_BYTES: Final = (
    32  # of an ed25519 key (RFC 8032); some write the public key, as long, behind it
)
_HEADERS: Final = frozenset({b"webhook-id", b"webhook-timestamp", b"webhook-signature"})


class Secret:
    """Bytes that nothing shows: not its text, not its repr, not a pickle."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    def reveal(self) -> bytes:
        """Return the content, to be used and not to be kept."""
        return self._content

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret goes nowhere")


class SymmetricKey:
    """Signs with HMAC-SHA256."""

    __slots__ = ("_secret",)

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def sign(self, content: bytes) -> bytes:
        """Return the signature of `content`, with its version."""
        return b"v1," + b64encode(hmac.digest(self._secret.reveal(), content, "sha256"))


class AsymmetricKey:
    """Signs with ed25519."""

    __slots__ = ("_key",)

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def sign(self, content: bytes) -> bytes:
        """Return the signature of `content`, with its version."""
        return b"v1a," + b64encode(self._key.sign(content))


Key: TypeAlias = SymmetricKey | AsymmetricKey


def parse_key(secret: Secret) -> Key:
    """Return the key that a secret's text is; raise ValueError if it is none.

    ``whsec_`` and base64 of 24 to 64 bytes, or ``whsk_`` and base64 of an ed25519 private
    key: its 32 bytes, or those with the public key's behind them.
    """
    found = _parse(secret)
    if not isinstance(found, str):
        return found
    raise ValueError(found)  # here, where no variable holds a part of the secret


def _parse(secret: Secret) -> Key | str:
    """Return a secret's key, or why it is none."""
    text = secret.reveal().strip()
    for prefix, make in ((SYMMETRIC, _symmetric), (ASYMMETRIC, _asymmetric)):
        if text.startswith(prefix):
            encoded = text[len(prefix) :]
            try:
                content = binascii.a2b_base64(
                    encoded + b"=" * (-len(encoded) % 4), strict_mode=True
                )
            except binascii.Error:
                return f"expected base64 after {prefix.decode()}"
            return make(content)
    return "expected whsec_ or whsk_ at its start"


def _symmetric(content: bytes) -> Key | str:
    least, most = KEY_BYTES
    if not least <= len(content) <= most:
        return f"expected base64 of {least} to {most} bytes after whsec_"
    return SymmetricKey(Secret(content))


def _asymmetric(content: bytes) -> Key | str:
    if len(content) not in {_SEED_BYTES, 2 * _SEED_BYTES}:
        return "expected base64 of 32 or 64 bytes after whsk_"
    key = Ed25519PrivateKey.from_private_bytes(content[:_SEED_BYTES])
    public = content[_SEED_BYTES:]
    if public and public != key.public_key().public_bytes_raw():
        return "its second half is not the public key of its first"
    return AsymmetricKey(key)


def signature_headers(
    keys: Sequence[Key], webhook_id: bytes, timestamp_s: int, body: bytes
) -> tuple[tuple[bytes, bytes], ...]:
    """Return the three headers that prove who sends `body`, the bytes after any encoding.

    `timestamp_s` is the attempt's time in whole seconds since 1970. Each key makes one
    signature, in the keys' order, so that a consumer that knows any of them is content.
    """
    stamp = b"%d" % timestamp_s
    content = b"%b.%b.%b" % (webhook_id, stamp, body)
    return (
        (b"Webhook-Id", webhook_id),
        (b"Webhook-Timestamp", stamp),
        (b"Webhook-Signature", b" ".join([key.sign(content) for key in keys])),
    )


def as_signed(
    message: Message, keys: Sequence[Key], webhook_id: bytes, timestamp_s: int
) -> Message:
    """Return the message signed as it is to be sent; a producer's own signature is replaced."""
    kept = (pair for pair in message.headers if pair[0].lower() not in _HEADERS)
    added = signature_headers(keys, webhook_id, timestamp_s, message.body)
    return msgspec.structs.replace(message, headers=(*kept, *added))
