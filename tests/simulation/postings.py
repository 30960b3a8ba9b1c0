"""What producers post under idempotency keys: single messages, groups and events, drawn from the seed.

Decides what a request is, which keys it has, and who shows them where: a key is its route's and its
credential's. Some requests come under the key of another one, and some keys are another scope's
in the same words. Leaves when and where they are posted to ``producers``.

A route's door is crowd's own. What tells a try from the next one stands in a header field: all
tries are one request, as a request is its method, its target and its body.
"""

from __future__ import annotations

import hashlib

import msgspec

from crowd.door.door import Door
from crowd.policy import KeyPolicy, Policy
from crowd.web.entrance import Entrance
from tests.simulation.manners import KEYS

OPEN = ("/orders", "/leads")
SHOP, EVENTS = "/shop", "/events"
KEYED_ROUTES = (SHOP, EVENTS)
"""Routes that are there where producers have keys; the first asks for a credential."""
CREDENTIALS = ("till", "crawler")
GROUP_MAX = 9
"""Messages of a group: a batch is bounded by not many more (``sizes``)."""
REUSED = 0.12
"""The share of keys that come with another request than they came with first."""
ELSEWHERE = 0.12
"""The share of keys whose text another scope uses as well."""
EVENT_AGAIN = 0.3
TRY = b"X-Try"

POLICIES = (
    Policy(
        SHOP,
        methods=("POST",),
        keys=tuple(
            KeyPolicy(name, (hashlib.sha256(name.encode()).hexdigest(),)) for name in CREDENTIALS
        ),
        key_from=("bearer",),
        many=True,
    ),
    Policy(EVENTS, methods=("POST",), many=True, idempotency="event"),
)


def entrance(wall_us, seconds):
    """Return the doors of the keyed routes."""
    return Entrance({policy.path: Door(policy) for policy in POLICIES}, wall_us, seconds)


class Named(msgspec.Struct, frozen=True):
    """A key: of `count` messages from `place` on, known by `name`, for a request, or any."""

    place: int
    count: int
    name: tuple
    request: tuple | None


class Posting(msgspec.Struct, frozen=True):
    """A request, as it is each time it is posted. `bodies` are its messages'."""

    path: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    bodies: tuple[bytes, ...]
    is_group: bool = False
    keys: tuple[Named, ...] = ()


class Postings:
    """Draws postings, one after the other."""

    def __init__(self, chance, groups):
        """`groups` is the share of requests that are many messages."""
        self._chance = chance
        self._groups = groups
        self._known = []
        """The scopes and keys that were drawn: (path, credential, text)."""
        self._keyed = []
        """The requests that have a key."""
        self._events = 0

    def draw(self, number, host, body_bytes):
        """Return the next one; `number` tells its content from all others'."""
        chance = self._chance
        many = chance.random() < self._groups
        count = chance.randrange(1, GROUP_MAX + 1) if many else 1
        if chance.random() < 0.25:
            return self._event(number, host, count, is_group=many)
        if self._keyed and chance.random() < REUSED / 3:
            return _elsewhere(chance.choice(self._keyed[-12:]), number)
        path = SHOP if many else chance.choice((*OPEN, SHOP))
        credential = chance.choice(CREDENTIALS) if path == SHOP else ""
        has_key = not many or chance.random() < 0.7
        text = ""
        if has_key:
            path, credential, text = self._key(number, path, credential, may_move=not many)
        headers = [host, (b"X-Key", b"%d" % (number % KEYS))]
        if credential:
            headers.append((b"Authorization", b"Bearer " + credential.encode()))
        if has_key:
            quoted = b'"%b"' if number % 2 else b"%b"
            headers.append((b"Idempotency-Key", quoted % text.encode()))
        bodies = tuple(_body(number, place, body_bytes // count) for place in range(count))
        body = b"\n".join(bodies)
        if many:
            headers.append((b"Content-Type", b"application/x-ndjson"))
        target = f"{path}?{number % 3}".encode()
        keys = ()
        if has_key:
            name = path, credential, text
            keys = (Named(0, count, name, (target, body)),)
        posting = Posting(path, target, tuple(headers), body, bodies, many, keys)
        if has_key:
            self._keyed.append(posting)
        return posting

    def _key(self, number, path, credential, *, may_move):
        """Return a key and whose it is: a new one, one that was used, or another's text."""
        chance, text = self._chance, f"key-{number}"
        drawn = chance.random()
        if self._known and drawn < REUSED + ELSEWHERE:
            known = chance.choice(self._known[-12:])
            if drawn >= REUSED:
                text = known[2]
            elif known[0] == SHOP or may_move:
                path, credential, text = known
        self._known.append((path, credential, text))
        return path, credential, text

    def _event(self, number, host, count, *, is_group):
        """Return events, which are their own keys; some were posted before, by others."""
        chance = self._chance
        names = []
        for _ in range(count):
            if not self._events or chance.random() >= EVENT_AGAIN:
                self._events += 1
                names.append(self._events)
            else:
                names.append(chance.randrange(max(1, self._events - 20), self._events + 1))
        bodies = tuple(
            b'{"source": "/till-%d", "id": "%d", "key": %d, "text": "%d"}'
            % (*divmod(name, 5), name % KEYS, number)
            for name in names
        )
        kind = b"application/cloudevents+json"
        body = bodies[0]
        if is_group:
            kind, body = b"application/cloudevents-batch+json", b"[%b]" % b", ".join(bodies)
        keys = tuple(Named(place, 1, (EVENTS, "", name), None) for place, name in enumerate(names))
        headers = (host, (b"Content-Type", kind))
        return Posting(EVENTS, EVENTS.encode(), headers, body, bodies, is_group, keys)


def _elsewhere(posting, number):
    """Return the same request with another target."""
    target = f"{posting.path}?else-{number}".encode()
    (named,) = posting.keys
    named = msgspec.structs.replace(named, request=(target, posting.body))
    return msgspec.structs.replace(posting, target=target, keys=(named,))


def _body(number, place, size):
    text = b"%d.%d " % (number, place) * (1 + size // 8)
    return b'{"key": %d, "text": "%b"}' % ((number + place) % KEYS, text)
