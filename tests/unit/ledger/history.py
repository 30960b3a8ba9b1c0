"""A short way to write a history: a ledger that numbers and stamps its own entries."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from crowd.command import (
    FORMAT,
    Accept,
    Birth,
    Burial,
    Bury,
    Define,
    Member,
    OpenSession,
    Settle,
    decode_command,
    encode_command,
)
from crowd.definition import ConsumerDefinition, Dead, KeyBounds, Retry, RouteDefinition
from crowd.idempotency import keyed
from crowd.ledger import Ledger

if TYPE_CHECKING:
    from crowd.command import Command, SessionId

BIRTH = Birth(
    "leads",
    "0123abcd",
    tuple(Member(name, f"{name}:2104", name.encode() * 16) for name in "abc"),
    FORMAT,
)
RETRY = Retry(1_000_000, 2.0, 300_000_000, 86_400_000_000)


def route(path: str, *, upstream: str | None = None) -> RouteDefinition:
    return RouteDefinition(path, ("POST",), "refuse", upstream)


def consumer(
    name: str,
    *routes: str,
    from_: str = "now",
    url: str = "http://x",
    backlog_bytes: int = 5 << 30,
    when_full: str = "refuse",
    dead_for_us: int = 30 * 86_400_000_000,
    backlog_messages: int = 20_000_000,
) -> ConsumerDefinition:
    return ConsumerDefinition(
        name, url, None, routes, 32, None, 15_000_000, "none", from_, RETRY, backlog_bytes,
        when_full, dead=Dead(for_us=dead_for_us), backlog_messages=backlog_messages,
    )  # fmt: skip


def digests(key: object, request: object = 0) -> bytes:
    """Return what a door would make of a key and a request, by what they are called here."""
    return b"".join(sha256(str(one).encode()).digest()[:16] for one in (key, request))


def burial(
    position: int, state: str = "dead", *, words: str = "no", message: bytes = b"mmm"
) -> Burial:
    return Burial(position, state, "answer", 400, words, 2, 5, 6, message)


class History:
    """Applies commands as they would come out of a log, by way of their bytes."""

    def __init__(self, *, chunk_rows: int = 4, born: bool = True) -> None:
        self.ledger = Ledger(chunk_rows=chunk_rows)
        self.commands: list[Command] = []
        self.numbers: dict[int, int] = {}
        self.ledger.skip(1, 0)
        if born:
            self.apply(BIRTH)

    def apply(self, command: Command) -> int:
        """Apply a command as the next entry, and return that entry's index."""
        index = self.ledger.applied_index + 1
        self.commands.append(command)
        self.ledger.apply(index, 1, 1_000_000 * index, decode_command(encode_command(command)))
        return index

    def open(self, node: str = "a", nonce: bytes = b"n" * 16) -> SessionId:
        return self.apply(OpenSession(node, nonce))

    def define(self, *definitions: RouteDefinition | ConsumerDefinition, node: str = "a") -> None:
        """Apply a file of `node`'s, always a new one."""
        routes = tuple(d for d in definitions if isinstance(d, RouteDefinition))
        consumers = tuple(d for d in definitions if isinstance(d, ConsumerDefinition))
        file_hash = len(self.commands).to_bytes(32, "big")
        self.apply(Define(node, file_hash, routes, consumers))

    def accept(self, session: int, *routes: int, size: int = 3) -> int:
        """Accept one message for each of `routes` under the session's next number."""
        number = self.numbers[session] = self.numbers.get(session, 0) + 1
        messages = tuple(b"m" * size for _ in routes)
        self.apply(Accept(session, number, number, routes, messages))
        return number

    def accept_keyed(
        self, session: int, *messages: tuple[int, object, object] | tuple[int, object, object, int],
        size: int = 3,
    ) -> int:  # fmt: skip
        """Accept messages, each a route, a key or None, and a request: the session's next number.

        A fourth value makes a group of so many.
        """
        number = self.numbers[session] = self.numbers.get(session, 0) + 1
        routes: tuple[int, ...] = ()
        keys = b""
        for route, key, request, *more in messages:
            count = more[0] if more else 1
            if key is not None:
                keys += keyed(len(routes), digests(key, (request, count)), count)
            routes += (route,) * count
        self.apply(Accept(session, number, number, routes, (b"m" * size,) * len(routes), keys))
        return number

    def bound(self, window_us: int, count_max: int, node: str = "a") -> None:
        """Apply a file that bounds idempotency keys so."""
        file_hash = len(self.commands).to_bytes(32, "big")
        self.apply(Define(node, file_hash, (), (), KeyBounds(window_us, count_max)))

    def settle(self, consumer: int, *ranges: tuple[int, int]) -> None:
        self.apply(Settle(consumer, ranges))

    def bury(self, consumer: int, *burials: Burial | int, target: int = 0) -> None:
        """Bury messages, or letters that wait for `target`: as burials, or by their positions."""
        letters = tuple(burial(b) if isinstance(b, int) else b for b in burials)
        self.apply(Bury(consumer, letters, target))
