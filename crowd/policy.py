"""What a node asks of requests before they become messages: a route's policy, as values.

Decides nothing: `crowd.policy_tables` reads it from a file, and ``crowd/door`` decides by it. A
policy is this node's own and is not in the log, as it holds only until a message is accepted.
Its text, which holds hashes and references and never a secret, is part of the configuration's
``file_hash``, so that nodes whose policies differ are seen.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class KeyPolicy(msgspec.Struct, frozen=True):
    """A producer's keys: its name, and the SHA-256 of each key in hexadecimal."""

    name: str
    sha256: tuple[str, ...]


class Form(msgspec.Struct, frozen=True):
    """How a provider signs.

    ``content`` is what is signed, with ``{body}``, ``{timestamp}`` and ``{id}`` in it.
    ``prefix`` stands before each signature. ``list`` says how several stand in one field, and
    where a timestamp stands that is not in a field of its own.
    """

    header: str
    content: str = "{body}"
    prefix: str = ""
    encoding: Literal["hex", "base64"] = "hex"
    hash: Literal["sha256", "sha512", "sha1"] = "sha256"
    timestamp: str = ""
    id: str = ""
    list: Literal["one", "pairs", "spaces"] = "one"


class SignaturePolicy(msgspec.Struct, frozen=True):
    """How requests are signed, and references to the secrets; ``custom`` spells ``hmac`` out."""

    name: str
    form: str
    secrets: tuple[str, ...]
    tolerance_s: float
    custom: Form | None


class CertificatePolicy(msgspec.Struct, frozen=True):
    """A producer's name, and the names in its certificates, such as ``dns:shop.example``."""

    name: str
    names: tuple[str, ...]


class CorsPolicy(msgspec.Struct, frozen=True):
    """Which pages may post from a browser (``*`` is any), and what a browser is told of it."""

    origins: tuple[str, ...]
    headers: tuple[str, ...]
    expose: tuple[str, ...]
    credentials: bool
    max_age_s: int


class ContentPolicy(msgspec.Struct, frozen=True):
    """What may be posted. ``types`` empty is any; ``schema_text`` is the schema's file, as read."""

    types: tuple[str, ...]
    json: bool
    depth: int
    unique: bool
    schema: str | None
    schema_text: str | None
    body_bytes_max: int
    decoded_bytes_max: int
    head_bytes_max: int
    fields_max: int


class RatePolicy(msgspec.Struct, frozen=True):
    """How often a producer may post: `per_s` on average, `burst` at once."""

    per_s: float
    burst: int
    by: Literal["credential", "address"]


class Policy(msgspec.Struct, frozen=True):
    """What the route at `path` asks of a request. What is empty or None asks nothing.

    ``methods`` are the route's. ``key_from`` says where a key may stand: ``bearer``, ``basic``, or
    ``header:NAME``. ``wait_s`` asks nothing: it is how long a producer may wait for a consumer.
    ``many``: a request may be many messages. ``idempotency`` says what a message's key is. For both a
    body is decoded up to ``decoded_bytes_max``, that of all bodies.
    """

    path: str
    methods: tuple[str, ...] = ()
    require: Literal["all", "any"] = "all"
    keys: tuple[KeyPolicy, ...] = ()
    key_from: tuple[str, ...] = ()
    signature: SignaturePolicy | None = None
    certificates: tuple[CertificatePolicy, ...] = ()
    cors: CorsPolicy | None = None
    content: ContentPolicy | None = None
    rate: RatePolicy | None = None
    wait_s: float = 0.0
    many: bool = False
    idempotency: Literal["header", "event"] = "header"
    decoded_bytes_max: int = 1024 * 1024

    @property
    def asks_who(self) -> bool:
        """Whether a request has to show who posts."""
        return bool(self.keys or self.signature or self.certificates)

    @property
    def asks_nothing(self) -> bool:
        """Whether every request may pass as it is: the route stands open."""
        nothing = Policy(
            self.path,
            self.methods,
            self.require,
            key_from=self.key_from,
            wait_s=self.wait_s,
            decoded_bytes_max=self.decoded_bytes_max,
        )
        return self == nothing
