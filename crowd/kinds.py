"""What the values of a configuration may be, one `Kind` each, with the words to say so.

Decides the bounds of single values and why they are what they are. Leaves which key has
which kind, and what must fit together, to `crowd.config`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from werkzeug.routing import Map, Rule

from crowd.definition import NETWORKS_MAX, SCHEDULE_MAX, SECRETS_MAX, read_start
from crowd.idempotency import KEYS_MAX
from crowd.quantity import duration_us, rate_per_s, size_bytes
from crowd.table import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_MIB: Final = 2**20
_S: Final = 1_000_000
_H: Final = 3_600 * _S
PATIENT_US: Final = (
    5 * _S, 300 * _S, 1_800 * _S, 2 * _H, 5 * _H, 10 * _H, 14 * _H, 20 * _H, 24 * _H,
)  # fmt: skip
"""The waits of the Standard Webhooks specification's example: 75 h 35 min 5 s in all."""

_TEXT_MAX: Final = 4_096
"""Characters; what a definition in the log may hold (`crowd.command`)."""

WORKERS_MAX: Final = 64
"""Processes of one node that take requests: a core each, on any machine it is likely to get."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")  # RFC 9110, 5.6.2
_VISIBLE = re.compile(r"[!-~]+\Z")
_PLACEHOLDER = re.compile(r"<(?:[a-zA-Z_]\w*(?:\([^()<>]*\))?:)?[a-zA-Z_]\w*>")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9_~-]+(?:\.[A-Za-z0-9_~-]+)*|\[[0-9A-Fa-f:.]+\])\Z")
_TCP = re.compile(r"(?:tcp6?|ssl):(?:port=)?([^:]*)")
_DOOR = re.compile(r"(haproxy:)?(tls:)?(.*)\Z", re.DOTALL)
_STATUS = re.compile(r"[345]([0-9][0-9]|xx)\Z")
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)+\Z")  # RFC 6901
_POINTER_MAX: Final = 240
_SECRET = re.compile(r"(?:file:/.+|env:[A-Za-z_][A-Za-z0-9_]*)\Z")
_NOT_ACCEPTED: Final = frozenset({"GET", "HEAD", "OPTIONS", "CONNECT", "TRACE"})


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[v6]:port``; raise ValueError if it is none."""
    match = _ADDRESS.match(text)
    if match is None or not 0 < int(match[2]) < 2**16:
        raise ValueError(f"{text!r} is not host:port")
    return match[1].strip("[]"), int(match[2])


class Door(NamedTuple):
    """A port for producers: what comes before HTTP on it, and Twisted's endpoint string."""

    is_proxied: bool
    is_tls: bool
    endpoint: str


def split_door(text: str) -> Door:
    """Return what a string of `node.http` means: ``haproxy:`` and ``tls:`` first, if they are there."""
    match = _DOOR.match(text)
    assert match is not None, "everything matches"
    return Door(match[1] is not None, match[2] is not None, match[3])


def is_shared(endpoint: str) -> bool:
    """Return whether processes can share what an endpoint listens on: bytes as they come."""
    return endpoint.startswith(("tcp:", "tcp6:", "unix:"))


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


def _keys(value: Any) -> int:
    return _number(value) and _bounded(_number, 2, KEYS_MAX)(value)


def _number(value: Any) -> int:
    if type(value) is not int:
        raise ValueError
    return value


def _each(
    value: Any, parse: Callable[[Any], str], least: int, most: int = 1_024
) -> tuple[str, ...]:
    if type(value) is not list or not least <= len(value) <= most:
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


def _door(value: Any) -> str:
    endpoint = split_door(_text(value)).endpoint
    # One of them twice, or in the wrong order: Twisted's own, which believe anybody, would take it.
    if endpoint.startswith(("haproxy:", "tls:")):
        raise ValueError
    _endpoint(endpoint)
    return str(value)


def _host(value: Any) -> str:
    return _matching(_HOST)(value).lower()


def _url(value: Any) -> str:
    text = _matching(_VISIBLE)(value)
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError
    if parts.query or parts.fragment or "@" in parts.netloc or text[-1] in "?#":
        raise ValueError
    parts.hostname.encode("idna")  # its UnicodeError is a ValueError: nothing has that name
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
    try:
        Map([Rule(text)])
    except (LookupError, SyntaxError):  # an unknown converter, or one name twice
        raise ValueError from None
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
    text = _text(value)
    if text in {"none", "all", "path"}:
        return text
    what, _, named = text.partition(":")
    if what == "header" and _TOKEN.match(named):
        return text
    if what == "json" and _POINTER.match(named) and len(named) <= _POINTER_MAX:
        return text
    raise ValueError


def _from(value: Any) -> str:
    text = _text(value)
    read_start(text)
    return text


def _one_of(*values: T) -> Callable[[Any], T]:
    def parse(value: Any) -> T:
        if type(value) is not str or value not in values:
            raise ValueError
        return values[values.index(value)]  # the constant, which type checkers know

    return parse


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError
    return value


def _fraction(most: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if type(value) not in {int, float} or not 0 <= value <= most:
            raise ValueError
        return float(value)

    return parse


def _schedule(value: Any) -> tuple[int, ...]:
    if value == "patient":
        return PATIENT_US
    if type(value) is not list or len(value) > SCHEDULE_MAX:
        raise ValueError
    return tuple(map(DELAY.parse, value))


def _network(value: Any) -> str:
    return str(ipaddress.ip_network(_text(value)))


def _secret(value: Any) -> str:
    text = _text(value)
    if not _SECRET.match(text):
        raise ValueError
    return text


def _file(value: Any) -> str:
    text = _text(value)
    if not text.startswith("/") or text.endswith("/"):
        raise ValueError
    return text


def _factor(value: Any) -> float:
    if type(value) not in {int, float} or not 1 <= value <= 1_000:
        raise ValueError
    return float(value)


TEXT: Final = Kind("a string that is not empty", "", _text)

# In a consumer's definition, which is one for all nodes, wherever their own files are.
FILE: Final = Kind("the absolute path of a file, the same on every node", "", _file)

NAME: Final = Kind(
    "a name of a-z, 0-9 and '-', at most 63 long, beginning and ending with a letter or digit",
    "",
    _matching(_LABEL),  # a DNS label: names stand in certificates
)

ENDPOINT: Final = Kind('a Twisted endpoint string such as "tcp:2104"', "", _endpoint)
DOORS: Final[Kind[tuple[str, ...]]] = Kind(
    'an array of Twisted endpoint strings such as ["tcp:2104"], "haproxy:" or "tls:" before each',
    (),
    lambda value: _each(value, _door, 1),
)
CLIENTS: Final[Kind[Literal["require", "ask"]]] = Kind(
    '"require" or "ask"', "require", _one_of("require", "ask")
)
HOSTS: Final[Kind[tuple[str, ...]]] = Kind(
    'an array of names or addresses without ports, such as ["crowd.example", "[::1]"]',
    (),
    lambda value: _each(value, _host, 0),
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
    lambda value: _each(value, _method, 0),
)
READS: Final[Kind[Literal["proxy", "refuse"]]] = Kind(
    '"proxy" or "refuse"', "refuse", _one_of("proxy", "refuse")
)

# 16 MiB: a message is one entry at most, and an entry one frame between peers.
BODY: Final = Kind('a size from "1 B" to "16 MiB"', 0, _bounded(size_bytes, 1, 16 * _MIB))
SIZE: Final = Kind(
    'a size from "1 MiB" to "1024 TiB", with its unit', 0, _bounded(size_bytes, _MIB, 2**50)
)
# Each message of a backlog takes less than 3 bytes of memory on every node: 3 GB at the most.
MESSAGES: Final = Kind(
    "a whole number from 1 to 1000000000", 1, _bounded(_number, 1, 1_000_000_000)
)
# Room for a key to come is kept: of one nothing would be remembered.
KEYS: Final = Kind(f"a whole number from 2 to {KEYS_MAX}, or 0 for none", 0, _keys)
# Below a second a producer could not try again; above a month the count is the bound.
WINDOW: Final = Kind(
    'a duration from "1 s" to "30 d", with its unit', 1, _bounded(duration_us, _S, 720 * _H)
)
WORKERS: Final = Kind(
    f"a whole number from 0 to {WORKERS_MAX}", 0, _bounded(_number, 0, WORKERS_MAX)
)
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
ORDER: Final = Kind(
    '"none", "all", "path", "header:NAME" or "json:/pointer" (RFC 6901)', "none", _order
)
FROM: Final = Kind(
    '"now", "beginning", "position:123" or a time such as "2026-11-24T12:00:00Z"', "now", _from
)
WHEN_FULL: Final[Kind[Literal["refuse", "skip"]]] = Kind(
    '"refuse" or "skip"', "refuse", _one_of("refuse", "skip")
)
ON_DEAD: Final[Kind[Literal["release", "hold"]]] = Kind(
    '"release" or "hold"', "release", _one_of("release", "hold")
)
FORM: Final[Kind[Literal["request", "cloudevents-binary", "cloudevents-structured"]]] = Kind(
    '"request", "cloudevents-binary" or "cloudevents-structured"',
    "request",
    _one_of("request", "cloudevents-binary", "cloudevents-structured"),
)
BATCH_FORM: Final[Kind[Literal["ndjson", "json", "cloudevents", "bulk"]]] = Kind(
    '"ndjson", "json", "cloudevents" or "bulk"',
    "ndjson",
    _one_of("ndjson", "json", "cloudevents", "bulk"),
)
BATCH_COUNT: Final = Kind("a whole number from 1 to 10000", 1, _bounded(_number, 1, 10_000))
LINGER: Final = Kind(
    'a duration from "0 s" to "1 min", with its unit', 0, _bounded(duration_us, 0, 60_000_000)
)
FLAG: Final = Kind("true or false", False, _flag)
ATTEMPTS: Final = Kind("a whole number, 0 for no bound", 0, _bounded(_number, 0, 1_000_000))
FAILURES: Final = Kind("a whole number from 1 to 10000", 1, _bounded(_number, 1, 10_000))
SHARE: Final = Kind("a number from 0 to 1", 1.0, _fraction(1.0))
RATIO: Final = Kind("a number from 0 to 2, above 1 for never", 1.0, _fraction(2.0))
SCHEDULE: Final[Kind[tuple[int, ...]]] = Kind(
    '"patient", or an array of at most 64 durations such as ["5 s", "5 min"]', (), _schedule
)
STATUSES: Final[Kind[tuple[str, ...]]] = Kind(
    'an array of statuses from "300" to "599", or of "3xx", "4xx", "5xx"',
    (),
    lambda value: _each(value, _matching(_STATUS), 0),
)
NETWORKS: Final[Kind[tuple[str, ...]]] = Kind(
    'an array of at most 64 networks such as ["10.0.0.0/8", "fe80::/10"]',
    (),
    lambda value: _each(value, _network, 0, NETWORKS_MAX),
)
SECRETS: Final[Kind[tuple[str, ...]]] = Kind(
    'an array of at most 8 references such as ["file:/etc/crowd/secret", "env:SECRET"]',
    (),
    lambda value: _each(value, _secret, 0, SECRETS_MAX),
    veiled=True,  # it may well be the secret itself
)
SIGNATURE_SECRETS: Final[Kind[tuple[str, ...]]] = Kind(
    SECRETS.expected.replace("at most", "1 to"),
    (),
    lambda value: _each(value, _secret, 1, SECRETS_MAX),
    veiled=True,
)
