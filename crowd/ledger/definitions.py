"""What configuration files have defined: routes and consumers, with ids that never change.

Decides how one node's file changes what all nodes' files defined, where a new consumer
begins, and what is left of one that was dismissed. Leaves progress to ``consumers``, and what
a route or a consumer means to ``crowd/web`` and ``crowd/delivery``.

Invariant: ids are given from 1 in the order of definition and are never given again; a
route or a consumer that a file does not name is never removed by that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from crowd.command import NO_FILE, Index
from crowd.definition import read_start
from crowd.ledger.consumers import ALL_ROUTES, Consumer
from crowd.ledger.head import CONSUMERS_MAX, ROUTES_MAX, expect
from crowd.message import ConsumerId, Position, RouteId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.command import Define
    from crowd.definition import ConsumerDefinition, RouteDefinition
    from crowd.ledger.head import Head
    from crowd.ledger.marks import Marks
    from crowd.ledger.rows import Rows


class Route(msgspec.Struct, frozen=True, gc=False):
    """A route as the ledger knows it."""

    id: RouteId
    definition: RouteDefinition


class Starts(msgspec.Struct, frozen=True, gc=False):
    """Where consumers may begin now: behind `beginning` or later, and times by `marks`."""

    beginning: Position
    log_time_us: int
    marks: Marks

    def resolve(self, text: str, tip: Position) -> Position:
        """Return the last position before a consumer whose ``from`` is `text`; `tip` is now's.

        A time that is still to come is now; one that is past is the last mark before it, so
        that no message from then on is left out, and some that came earlier may be taken.
        """
        start = read_start(text)
        if start.at == "now" or (start.at == "time" and start.value > self.log_time_us):
            return tip
        position = start.value - 1 if start.at == "position" else self.marks.before(start.value)
        return Position(min(max(position, self.beginning), tip))


class Gone(msgspec.Struct, frozen=True, gc=False):
    """What is left of a consumer that was dismissed, at ``index`` and ``log_time_us``.

    ``dropped`` of its messages were not settled then, and are not delivered to it any more.
    Its dead letters are kept for ``dead_for_us``, as they were.
    """

    id: ConsumerId
    name: str
    index: Index
    log_time_us: int
    dropped: int
    dead_for_us: int


class Definitions:
    """All routes and consumers of the cluster."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        """By path, in the order of their ids."""
        self.accepted: dict[RouteId, int] = {}
        """How many messages were ever accepted on each route."""
        self.consumers: dict[ConsumerId, Consumer] = {}
        """In the order of their ids."""
        self.consumer_ids: dict[str, ConsumerId] = {}
        self.last_consumer = 0
        """The consumer id that was given last."""
        self.gone: dict[ConsumerId, Gone] = {}
        """Consumers that were dismissed, in the order of that: the newest `GONE_MAX`."""
        self.file_hashes: dict[str, bytes] = {}

    def define(self, file: Define, rows: Rows, starts: Starts) -> bool:
        """Apply one node's file: add what is new, replace what it changes, remove nothing.

        Returns whether it is applied. A consumer that is new begins where `starts` has it.

        The same file again changes nothing, so a node that starts with an old file does not
        undo what another one's brought. A file that would pass a bound changes nothing and
        leaves no hash, which shows on its node as a file not applied. An operator's order
        (`NO_FILE`) leaves none either; that it has its effect once is seen to by `heard`.
        """
        if self.file_hashes.get(file.node) == file.file_hash or not self._has_room(file):
            return False
        if file.file_hash != NO_FILE:
            self.file_hashes[file.node] = file.file_hash
        for route in file.routes:
            known = self.routes.get(route.path)
            route_id = RouteId(len(self.routes) + 1) if known is None else known.id
            self.routes[route.path] = Route(route_id, route)
            self.accepted.setdefault(route_id, 0)
        for definition in file.consumers:
            consumer_id = self.consumer_ids.get(definition.name)
            if consumer_id is None:
                self._add_consumer(definition, rows, starts)
            else:
                self.consumers[consumer_id].redefine(definition)
        # All of them, as this file may define a path that another's consumer waits for.
        for consumer in self.consumers.values():
            consumer.take(self._mask(consumer.definition.routes), rows.last)
        return True

    def _has_room(self, file: Define) -> bool:
        paths = {route.path for route in file.routes} | self.routes.keys()
        names = {consumer.name for consumer in file.consumers} | self.consumer_ids.keys()
        return len(paths) <= ROUTES_MAX and len(names) <= CONSUMERS_MAX

    def _add_consumer(self, definition: ConsumerDefinition, rows: Rows, starts: Starts) -> None:
        self.last_consumer += 1
        consumer_id = ConsumerId(self.last_consumer)
        from_position = starts.resolve(definition.from_, rows.last)
        consumer = Consumer(consumer_id, definition, from_position, self._mask(definition.routes))
        consumer.begin(rows)
        self.consumers[consumer_id] = consumer
        self.consumer_ids[definition.name] = consumer_id

    def dismiss(self, consumer: Consumer, index: Index, log_time_us: int) -> None:
        """Take a consumer away. Its name is free again, its id is not."""
        definition = consumer.definition
        del self.consumers[consumer.id], self.consumer_ids[definition.name]
        self.gone[consumer.id] = Gone(
            consumer.id, definition.name, index, log_time_us, consumer.backlog,
            definition.dead.for_us,
        )  # fmt: skip

    def _mask(self, paths: Sequence[str]) -> int:
        """Return the bit mask of the routes at `paths`; a path that no file defined has none."""
        if not paths:
            return ALL_ROUTES
        known = {self.routes[path].id for path in paths if path in self.routes}
        return sum(1 << route for route in known)

    def state(self) -> list[Any]:
        """Return routes, consumers and file hashes as values that CBOR can say."""
        return [
            [
                [route.id, msgspec.to_builtins(route.definition), self.accepted[route.id]]
                for route in self.routes.values()
            ],
            [consumer.state() for consumer in self.consumers.values()],
            sorted(self.file_hashes.items()),
            [self.last_consumer, list(map(msgspec.structs.astuple, self.gone.values()))],
        ]

    def restore(self, head: Head) -> None:
        """Become, from empty, what files had defined when `head` was captured.

        Raises MalformedError if that cannot be: this object is of no use then.
        """
        for route_id, route in enumerate(head.routes, 1):
            expect(route.id == route_id, what="routes")
            self.routes[route.definition.path] = Route(route.id, route.definition)
            self.accepted[route.id] = route.accepted
        expect(sum(self.accepted.values()) == head.accepted.tip, what="routes")
        self.last_consumer = head.gone.last_consumer
        before = 0
        for part in head.consumers:
            expect(before < part.id <= self.last_consumer, what="consumers")
            consumer = Consumer(part.id, part.definition, part.from_position, 0)
            consumer.restore(part, head)
            self.consumers[part.id] = consumer
            self.consumer_ids[part.definition.name] = part.id
            before = part.id
        expect(len(self.consumer_ids) == len(self.consumers), what="consumers")
        self._restore_gone(head)
        self.file_hashes = dict(head.file_hashes)
        expect(
            self.file_hashes.keys() <= {member.name for member in head.members.members},
            what="file hashes",
        )

    def _restore_gone(self, head: Head) -> None:
        before = Index(0)
        for part in head.gone.consumers:
            expect(
                part.id <= self.last_consumer,
                part.id not in self.consumers,
                part.id not in self.gone,
                before < part.index <= head.applied.index,
                part.log_time_us <= head.applied.log_time_us,
                part.dropped <= head.accepted.tip,
                what="dismissed consumers",
            )
            self.gone[part.id] = Gone(*msgspec.structs.astuple(part))
            before = part.index
