"""What the values of a configuration may be, one `Kind` each, with the words to say so.

Decides the bounds of single values and why they are what they are. Leaves which key has
which kind, and what must fit together, to `crowd.config`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from crowd.quantity import duration_us, rate_per_s, size_bytes
from crowd.table import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

_MIB: Final = 2**20
_TEXT_MAX: Final = 4_096
"""Characters; what a definition in the log may hold (`crowd.command`)."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")  # RFC 9110, 5.6.2
_VISIBLE = re.compile(r"[!-~]+\Z")
_PLACEHOLDER = re.compile(r"<(?:[a-zA-Z_]\w*(?:\([^()<>]*\))?:)?[a-zA-Z_]\w*>")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})\Z")
_TCP = re.compile(r"(?:tcp6?|ssl):(?:port=)?([^:]*)")
_NOT_ACCEPTED: Final = frozenset({"GET", "HEAD", "OPTIONS", "CONNECT", "TRACE"})


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[v6]:port``; raise ValueError if it is none."""
    match = _ADDRESS.match(text)
    if match is None or not 0 < int(match[2]) < 2**16:
        raise ValueError(f"{text!r} is not host:port")
    return match[1].strip("[]"), int(match[2])


def _text(value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= _TEXT_MAX or not value.isprintable():
        raise ValueError
    return value


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not pattern.match(_text(value)):
            raise ValueError
        return str(value)

    return parse


def _bounded(unit: Callable[[str], int], least: int, most: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        amount = unit(value)
        if not least <= amount <= most:
            raise ValueError
        return amount

    return parse


def _number(value: Any) -> int:
    if type(value) is not int:
        raise ValueError
    return value


def _each(value: Any, parse: Callable[[Any], str], least: int) -> tuple[str, ...]:
    if type(value) is not list or not least <= len(value) <= 1_024:
        raise ValueError
    parsed = tuple(map(parse, value))
    if len(set(parsed)) != len(parsed):
        raise ValueError
    return parsed


def _endpoint(value: Any) -> str:
    text = _text(value)
    tcp = _TCP.match(text)
    if tcp and not (tcp[1].isascii() and tcp[1].isdigit() and int(tcp[1]) < 2**16):
        raise ValueError
    if not re.match(r"[a-z][a-z0-9]*:.", text):
        raise ValueError
    return text


def _url(value: Any) -> str:
    text = _matching(_VISIBLE)(value)
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError
    if parts.query or parts.fragment or "@" in parts.netloc or text[-1] in "?#":
        raise ValueError
    return text.rstrip("/")


def _path(value: Any) -> str:
    text = _matching(_VISIBLE)(value)
    if not text.startswith("/") or "#" in text:
        raise ValueError
    return text


def _rule(value: Any) -> str:
    text = _path(value)
    if set("<>?") & set(_PLACEHOLDER.sub("", text)):
        raise ValueError
    return text


def _method(value: Any) -> str:
    text = _matching(_TOKEN)(value)
    if text in _NOT_ACCEPTED or text != text.upper():
        raise ValueError
    return text


def _peers(value: Any) -> dict[str, str]:
    if type(value) is not dict or not 0 < len(value) <= 32:
        raise ValueError
    name = _matching(_LABEL)
    peers = {name(key): _text(address) for key, address in value.items()}
    if len({split_address(address) for address in peers.values()}) != len(peers):
        raise ValueError
    return peers


def _rate(value: Any) -> str:
    rate_per_s(_text(value))
    return str(value)


def _order(value: Any) -> str:
    if value != "none":
        raise ValueError
    return "none"


def _reads(value: Any) -> Literal["proxy", "refuse"]:
    if value == "proxy":
        return "proxy"
    if value == "refuse":
        return "refuse"
    raise ValueError


def _from(value: Any) -> Literal["now", "beginning"]:
    if value == "now":
        return "now"
    if value == "beginning":
        return "beginning"
    raise ValueError


def _when_full(value: Any) -> Literal["refuse", "skip"]:
    if value == "refuse":
        return "refuse"
    if value == "skip":
        return "skip"
    raise ValueError


def _factor(value: Any) -> float:
    if type(value) not in {int, float} or not 1 <= value <= 1_000:
        raise ValueError
    return float(value)


TEXT: Final = Kind("a string that is not empty", "", _text)

NAME: Final = Kind(
    "a name of a-z, 0-9 and '-', at most 63 long, beginning and ending with a letter or digit",
    "",
    _matching(_LABEL),  # a DNS label: names stand in certificates
)

ENDPOINT: Final = Kind('a Twisted endpoint string such as "tcp:2104"', "", _endpoint)
ENDPOINTS: Final[Kind[tuple[str, ...]]] = Kind(
    'an array of Twisted endpoint strings such as ["tcp:2104"]',
    (),
    lambda value: _each(value, _endpoint, 1),
)
PEERS: Final[Kind[dict[str, str]]] = Kind(
    'a table of name = "host:port", 1 to 32 members, no address twice', {}, _peers
)

URL: Final = Kind('a URL such as "http://127.0.0.1:8080", without query or user', "", _url)
PATH: Final = Kind('a path that begins with "/"', "", _path)
RULE: Final = Kind('a path in Klein\'s rule syntax, such as "/leads" or "/<path:rest>"', "", _rule)
RULES: Final[Kind[tuple[str, ...]]] = Kind(
    "an array of routes' paths", (), lambda value: _each(value, _rule, 0)
)
METHODS: Final[Kind[tuple[str, ...]]] = Kind(
    "an array of methods in capitals, without GET, HEAD, OPTIONS, CONNECT and TRACE",
    (),
    lambda value: _each(value, _method, 1),
)
READS: Final[Kind[Literal["proxy", "refuse"]]] = Kind('"proxy" or "refuse"', "refuse", _reads)

# 16 MiB: a message is one entry at most, and an entry one frame between peers.
BODY: Final = Kind('a size from "1 B" to "16 MiB"', 0, _bounded(size_bytes, 1, 16 * _MIB))
SIZE: Final = Kind(
    'a size from "1 MiB" to "1024 TiB", with its unit', 0, _bounded(size_bytes, _MIB, 2**50)
)
COUNT: Final = Kind("a whole number from 1 to 100000000", 0, _bounded(_number, 1, 100_000_000))
# Above 1 000 attempts at once to one consumer the sockets, not the consumer, are the bound.
CONCURRENCY: Final = Kind("a whole number from 1 to 1000", 1, _bounded(_number, 1, 1_000))

# An election takes about a second; below 100 ms every one of them would be an error.
PATIENCE: Final = Kind(
    'a duration from "100 ms" to "10 min", with its unit',
    0,
    _bounded(duration_us, 100_000, 600_000_000),
)
TIMEOUT: Final = Kind(
    'a duration from "10 ms" to "1 h", with its unit',
    1,
    _bounded(duration_us, 10_000, 3_600_000_000),
)
DELAY: Final = Kind(
    'a duration from "1 ms" to "365 d", with its unit',
    0,
    _bounded(duration_us, 1_000, 31_536_000_000_000),
)
RETENTION: Final = Kind(
    'a duration from "0 s" to "365 d", with its unit',
    0,
    _bounded(duration_us, 0, 31_536_000_000_000),
)
RATE: Final = Kind('a rate such as "200/s", "30/min" or "10/h"', "", _rate)
FACTOR: Final = Kind("a number from 1 to 1000", 1.0, _factor)
# An order that is asked for and not kept would break a promise in silence.
ORDER: Final = Kind('"none", as this version delivers without order', "none", _order)
FROM: Final[Kind[Literal["now", "beginning"]]] = Kind('"now" or "beginning"', "now", _from)
WHEN_FULL: Final[Kind[Literal["refuse", "skip"]]] = Kind('"refuse" or "skip"', "refuse", _when_full)
