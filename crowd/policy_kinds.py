"""What the values of a route's policy may be, one `Kind` each, as in `crowd.kinds`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal

from crowd.quantity import duration_us, size_bytes
from crowd.table import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

HASHES_MAX: Final = 8
"""Keys of one producer at once: the old and the new one while it changes them, and some to spare."""

DEPTH_MAX: Final = 512
"""Far below where decoders recurse too deep; documents that people make have about ten levels."""

_NOTHING_HASHED = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_SHA256 = re.compile(rf"(?!{_NOTHING_HASHED})[0-9a-f]{{64}}\Z")
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")  # RFC 9110, 5.6.2
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\*\.)?([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?\Z")
_MEDIA = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/(\*|[a-z0-9!#$&^_.+-]{1,127})\Z")  # RFC 6838, 4.2
_PRINTABLE = re.compile(r"[ -~]{1,200}\Z")
_PREFIX = re.compile(r"[!-~]{0,40}\Z")
_CERTIFICATE_NAME = re.compile(r"(?:dns|uri|email|ip|cn):[^\x00-\x1f\x7f]{1,300}\Z")
FORM_NAMES: Final = ("github", "stripe", "shopify", "slack", "standard", "hmac")
_TAKEN: Final = frozenset({
    "authorization", "connection", "content-length", "content-type", "host", "transfer-encoding",
})  # fmt: skip
"""Fields that mean something else already, or `bearer` and `basic` read."""


def matching(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    """Return what takes text of a pattern."""

    def parse(value: Any) -> str:
        if type(value) is not str or not pattern.match(value):
            raise ValueError
        return value

    return parse


def array_of(
    parse: Callable[[Any], str], least: int, most: int
) -> Callable[[Any], tuple[str, ...]]:
    """Return what takes an array of `least` to `most` different values."""

    def parse_all(value: Any) -> tuple[str, ...]:
        if type(value) is not list or not least <= len(value) <= most:
            raise ValueError
        parsed = tuple(map(parse, value))
        if len(set(parsed)) != len(parsed):
            raise ValueError
        return parsed

    return parse_all


def _number(value: Any) -> int:
    if type(value) is not int:
        raise ValueError
    return value


def bounded(unit: Callable[[Any], int], least: int, most: int) -> Callable[[Any], int]:
    """Return what takes an amount between two bounds."""

    def parse(value: Any) -> int:
        amount = unit(value)
        if not least <= amount <= most:
            raise ValueError
        return amount

    return parse


def field_name(value: Any) -> str:
    """Return the name of a header field; raise ValueError if it is none."""
    return matching(_FIELD)(value)


def _key_place(value: Any) -> str:
    if value in {"bearer", "basic"}:
        return str(value)
    what, _, name = (value if type(value) is str else "").partition(":")
    name = field_name(name).lower()
    if what != "header" or name in _TAKEN or name.startswith("crowd"):
        raise ValueError
    return f"header:{name}"


def _require(value: Any) -> Literal["all", "any"]:
    if value == "all":
        return "all"
    if value == "any":
        return "any"
    raise ValueError


def _by(value: Any) -> Literal["credential", "address"]:
    if value == "credential":
        return "credential"
    if value == "address":
        return "address"
    raise ValueError


def _idempotency(value: Any) -> Literal["header", "event"]:
    if value == "header":
        return "header"
    if value == "event":
        return "event"
    raise ValueError


def _proxy_field(value: Any) -> str:
    if value not in {"X-Forwarded-For", "Forwarded"}:
        raise ValueError
    return str(value)


def _form(value: Any) -> str:
    if value not in FORM_NAMES:
        raise ValueError
    return str(value)


def _encoding(value: Any) -> Literal["hex", "base64"]:
    if value == "hex":
        return "hex"
    if value == "base64":
        return "base64"
    raise ValueError


def _hash(value: Any) -> Literal["sha256", "sha512", "sha1"]:
    if value == "sha256":
        return "sha256"
    if value == "sha512":
        return "sha512"
    if value == "sha1":
        return "sha1"
    raise ValueError


def _template(value: Any) -> str:
    text = matching(_PRINTABLE)(value)
    parts = re.findall(r"\{[^{}]*\}?|\}", text)
    if text.count("{body}") != 1 or set(parts) - {"{body}", "{timestamp}"}:
        raise ValueError
    return text


def _certificate_name(value: Any) -> str:
    text = matching(_CERTIFICATE_NAME)(value)
    kind, _, name = text.partition(":")
    return f"{kind}:{name.lower()}" if kind == "dns" else text


def _origin(value: Any) -> str:
    return value if value in {"*", "null"} else matching(_ORIGIN)(value)


def _names_or_any(value: Any) -> tuple[str, ...]:
    if value == ["*"]:
        return ("*",)
    names = array_of(field_name, 0, 64)(value)
    if "*" in names:  # a token, but no field is called so
        raise ValueError
    return names


def _origins(value: Any) -> tuple[str, ...]:
    origins = array_of(_origin, 1, 64)(value)
    if "*" in origins and len(origins) > 1:
        raise ValueError
    return origins


REQUIRE: Final[Kind[Literal["all", "any"]]] = Kind('"all" or "any"', "all", _require)
KEY_FROM: Final[Kind[tuple[str, ...]]] = Kind(
    'an array of "bearer", "basic" and "header:NAME", each once',
    (),
    array_of(_key_place, 1, 4),
)
HASHES: Final[Kind[tuple[str, ...]]] = Kind(
    f"an array of 1 to {HASHES_MAX} SHA-256 in hexadecimal, as `crowd key` prints them; not an empty key's",
    (),
    array_of(matching(_SHA256), 1, HASHES_MAX),
    veiled=True,  # it may well be the key itself
)

ORIGINS: Final[Kind[tuple[str, ...]]] = Kind(
    'an array of at most 64 origins such as ["https://shop.example", "https://*.shop.example"], '
    'or ["*"]',
    (),
    _origins,
)
FIELDS: Final[Kind[tuple[str, ...]]] = Kind(
    'an array of at most 64 names of header fields, or ["*"]', (), _names_or_any
)
# Chromium believes an answer for two hours at most, Firefox for a day.
MAX_AGE: Final = Kind(
    'a duration from "0 s" to "24 h", with its unit',
    0,
    bounded(duration_us, 0, 86_400_000_000),
)

MEDIA: Final[Kind[tuple[str, ...]]] = Kind(
    'an array of at most 64 types such as ["application/json", "text/*"], in small letters',
    (),
    array_of(matching(_MEDIA), 0, 64),
)
DEPTH: Final = Kind("a whole number from 1 to 512", 1, bounded(_number, 1, DEPTH_MAX))
SIZE: Final = Kind('a size from "1 B" to "16 MiB"', 1, bounded(size_bytes, 1, 16 * 2**20))
HEAD: Final = Kind('a size from "256 B" to "32 KiB"', 1, bounded(size_bytes, 256, 32 * 2**10))
FIELDS_COUNT: Final = Kind("a whole number from 4 to 128", 1, bounded(_number, 4, 128))
BURST: Final = Kind("a whole number from 1 to 100000", 1, bounded(_number, 1, 100_000))
BY: Final[Kind[Literal["credential", "address"]]] = Kind(
    '"credential" or "address"', "address", _by
)
PROXY_FIELD: Final = Kind('"X-Forwarded-For" or "Forwarded"', "X-Forwarded-For", _proxy_field)
SIGNED: Final = Kind(
    '"github", "stripe", "shopify", "slack", "standard" or "hmac"', "github", _form
)
# Less would refuse clocks that are a little apart; more would let a request be repeated for long.
TOLERANCE: Final = Kind(
    'a duration from "1 s" to "24 h", with its unit',
    1_000_000,
    bounded(duration_us, 1_000_000, 86_400_000_000),
)
IDEMPOTENCY: Final[Kind[Literal["header", "event"]]] = Kind(
    '"header" or "event"', "header", _idempotency
)
# Below the time after which a connection without its answer is closed (`crowd.web.limits`).
WAIT: Final = Kind(
    'a duration from "0 s" to "1 min", with its unit', 0, bounded(duration_us, 0, 60_000_000)
)
FIELD: Final = Kind("the name of a header field", "", field_name)
PREFIX: Final = Kind("at most 40 printable ASCII characters, no spaces", "", matching(_PREFIX))
ENCODING: Final[Kind[Literal["hex", "base64"]]] = Kind('"hex" or "base64"', "hex", _encoding)
HASH: Final[Kind[Literal["sha256", "sha512", "sha1"]]] = Kind(
    '"sha256", "sha512" or "sha1"', "sha256", _hash
)
TEMPLATE: Final = Kind(
    "printable ASCII with {body} in it once, and {timestamp} or not", "", _template
)
CERTIFICATE_NAMES: Final[Kind[tuple[str, ...]]] = Kind(
    'an array of 1 to 16 names such as ["dns:shop.example", "uri:spiffe://example/shop", "cn:shop"]',
    (),
    array_of(_certificate_name, 1, 16),
)
