"""One worker as the engine's process knows it: what it offered, and what it is still to hear.

Decides how answers go back (all of one turn in one write, runs of positions in one frame) and
what of a worker's numbers is believed. Hands messages on as they came: nothing is decoded
here but the frame around them. Leaves processes to ``crew``, messages to the proposer, and what a
worker asks to the ledger and to those that keep waits.

Two objects for a message would be a third of what it costs here; there is one, which is its
waiter (`_Message`), without a Deferred.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from crowd.delivery.awaited import UNKNOWN
from crowd.errors import MalformedFrameError
from crowd.idempotency import NO_KEY, Grouped, Replayed
from crowd.metrics import MetricType, parse_sample
from crowd.raft.frames import FRAME_BYTES_MAX
from crowd.raft.proposal import group_bytes
from crowd.web.messages import Absence
from crowd.workers.acceptor import OFFER_BYTES_MAX, WINDOW_BYTES
from crowd.workers.wire import (
    Accepted,
    Await,
    Ended,
    Found,
    Known,
    Leave,
    Look,
    Offer,
    Refused,
    Together,
    decode_from_worker,
    refusal_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from twisted.internet.defer import Deferred

    from crowd.clock import Clock
    from crowd.delivery.awaited import Ending
    from crowd.message import ConsumerId, Position
    from crowd.raft.proposal import Outcome, Wanted
    from crowd.web.messages import Standing, Standings
    from crowd.web.waiting import Waits
    from crowd.workers.link import WorkerLink
    from crowd.workers.wire import State, Tally, ToWorker

IN_FLIGHT_BYTES_MAX: Final = WINDOW_BYTES + FRAME_BYTES_MAX
"""A worker that keeps its window never has more unanswered; above it, its link is not read."""


class TakesMany(Protocol):
    """What `Proposer.accept_many` is."""

    def __call__(self, wanted: Iterable[Wanted], waited_s: float = 0.0) -> None:
        """Take messages and groups, each with who waits for it; all are told, now or later."""


class Engine(NamedTuple):
    """What the engine's process does for a worker."""

    accept_many: TakesMany
    standings: Standings
    waits: Waits


class _Offering:
    """An offer under way, and the worker that is to hear of it."""

    __slots__ = ("batch", "left", "size_bytes", "worker")

    def __init__(self, worker: Worker, batch: int, count: int, size_bytes: int) -> None:
        self.worker = worker
        self.batch = batch
        self.left = count
        self.size_bytes = size_bytes


class _Message:
    """Who waits for one place of an offer, a message or a group: `crowd.raft.proposal.Waiter`."""

    __slots__ = ("offering", "place")

    def __init__(self, offering: _Offering, place: int) -> None:
        self.offering = offering
        self.place = place

    def callback(self, outcome: Outcome, /) -> None:
        self.offering.worker.decided(self.offering, self.place, outcome, None)

    def errback(self, error: Exception, /) -> None:
        self.offering.worker.decided(self.offering, self.place, None, error)


class _Run:
    """Places of one offer that follow one another and have the same fate.

    A group, and a message whose key was known, is one on its own.
    """

    __slots__ = ("count", "error", "offering", "outcome", "place")

    def __init__(
        self, offering: _Offering, place: int, outcome: Outcome | None, error: Exception | None
    ) -> None:
        self.offering = offering
        self.place = place
        self.outcome = outcome
        self.error = error
        self.count = 1

    def goes_on_with(self, outcome: Outcome | None, error: Exception | None) -> bool:
        """Whether the next place's fate is one more of this run."""
        if outcome is None:
            return self.error is not None and self.error is error
        own = self.outcome
        return isinstance(own, int) and isinstance(outcome, int) and own + self.count == outcome

    def frame(self) -> ToWorker:
        batch, place, outcome = self.offering.batch, self.place, self.outcome
        if outcome is None:
            assert self.error is not None
            return Refused(batch, place, self.count, refusal_of(self.error))
        if isinstance(outcome, Replayed):
            return Known(batch, place, outcome.position)
        if isinstance(outcome, Grouped):
            replayed: Any = outcome.replayed  # its positions are plain numbers there
            return Together(batch, place, outcome.first, outcome.count, replayed)
        return Accepted(batch, place, self.count, outcome)


class Worker:
    """A worker's end in the engine's process: `crowd.workers.link.LinkKeeper`.

    `samples` are its ingress's metrics as of its last tally; `ready` once there was one.
    """

    def __init__(self, clock: Clock, engine: Engine) -> None:
        self.link: WorkerLink | None = None
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.samples: dict[str, float] = {}
        self.ready = False
        self.silent_ticks = 0
        self.why_lost = ""
        self._clock = clock
        self._engine = engine
        self._state: State | None = None
        self._runs: list[_Run] = []
        self._answering = False
        self._waits: dict[int, tuple[Position, ConsumerId, Deferred[Any]]] = {}

    # --- What the crew does ---------------------------------------------------------------------

    def tell(self, frame: ToWorker) -> None:
        """Send a frame that the worker has to have."""
        if self.link is not None:
            self.link.write([frame])

    def push(self, state: State) -> None:
        """Send a state that the worker does not have yet, if it reads; else the next one will do."""
        if self.link is not None and self.link.writable and state != self._state:
            self._state = state
            self.link.write([state])

    # --- The link's calls ------------------------------------------------------------------------

    def link_frame(self, data: bytes) -> None:
        """Take what the worker said. Raises MalformedFrameError."""
        frame = decode_from_worker(data)
        self.silent_ticks = 0
        if isinstance(frame, Offer):
            self._offered(frame)
        elif isinstance(frame, Look):
            self._look(frame)
        elif isinstance(frame, Await):
            self._wait(frame)
        elif isinstance(frame, Leave):
            self._leave(frame.number)
        else:
            self._counted(frame)

    def link_writable(self) -> None:
        """Nothing: the next state is pushed with the next look."""

    def link_lost(self, why: str) -> None:
        """Answer no more: the worker's producers are gone with it."""
        self.ready = False
        self.why_lost = why
        self.link = None
        self._runs.clear()
        for number in list(self._waits):
            self._leave(number)

    # --- Messages --------------------------------------------------------------------------------

    def _offered(self, offer: Offer) -> None:
        messages = offer.messages
        size_bytes = sum(map(len, messages))
        places = len(offer.routes)
        offering = _Offering(self, offer.batch, places, size_bytes)
        waiters = [_Message(offering, place) for place in range(places)]
        if offer.counts or offer.keys:
            wanted = list(_places(offer, waiters))
        else:
            wanted = [
                (route, stored, NO_KEY, waiter)
                for route, stored, waiter in zip(offer.routes, messages, waiters, strict=True)
            ]
        self.in_flight += places
        self.in_flight_bytes += size_bytes
        if self.in_flight_bytes > IN_FLIGHT_BYTES_MAX and self.link is not None:
            self.link.read(False)
        self._engine.accept_many(wanted, offer.waited_us / 1e6)

    def decided(
        self, offering: _Offering, place: int, outcome: Outcome | None, error: Exception | None
    ) -> None:
        """Note a place's fate; the worker hears it at the end of this turn."""
        offering.left -= 1
        self.in_flight -= 1
        if not offering.left:
            self.in_flight_bytes -= offering.size_bytes
        if self.link is None:
            return
        runs = self._runs
        if runs:
            run = runs[-1]
            if (
                run.offering is offering
                and run.place + run.count == place
                and run.goes_on_with(outcome, error)
            ):
                run.count += 1
                return
        elif not self._answering:
            self._answering = True
            self._clock.callLater(0, self._answer)
        runs.append(_Run(offering, place, outcome, error))

    def _answer(self) -> None:
        self._answering = False
        runs, self._runs = self._runs, []
        if self.link is not None:
            self.link.write([run.frame() for run in runs])
            if self.in_flight_bytes <= IN_FLIGHT_BYTES_MAX:
                self.link.read(True)

    # --- Questions -------------------------------------------------------------------------------

    def _look(self, look: Look) -> None:
        """Tell where a message stands, which the ledger here can always say."""

        def found(found: Standing | Absence) -> None:
            if isinstance(found, Absence):
                self.tell(Found(look.number, None, found.value, ()))
                return
            consumers = tuple((each.name, each.state, each.attempts) for each in found.consumers)
            self.tell(Found(look.number, found.route, found.state, consumers))

        self._engine.standings.find(look.position).addCallback(found)

    def _wait(self, wait: Await) -> None:
        """Tell how a message ended for its consumer. A wait never fails."""

        def ended(ending: Ending | None) -> None:
            self._waits.pop(wait.number, None)
            known = UNKNOWN if ending is None else ending
            self.tell(Ended(wait.number, known.state, known.status, known.headers, known.body))

        waited = self._engine.waits.wait(wait.position, wait.consumer, wait.within_ms / 1000)
        self._waits[wait.number] = (wait.position, wait.consumer, waited)
        waited.addCallback(ended)

    def _leave(self, number: int) -> None:
        """End a wait of which nobody is to hear, unless it has ended already."""
        wait = self._waits.pop(number, None)
        if wait is not None:
            self._engine.waits.leave(*wait)

    # --- Numbers ---------------------------------------------------------------------------------

    def _counted(self, tally: Tally) -> None:
        samples = dict(tally.samples)
        for sample in samples:
            try:
                parse_sample(sample)
            except LookupError:
                raise MalformedFrameError("a tally of something that is no metric") from None
        self.samples = samples
        self.ready = True


def _places(offer: Offer, waiters: list[_Message]) -> Iterator[Wanted]:
    """Yield what stands at each place of an offer in which there are groups or keys.

    Raises MalformedFrameError for a group that no entry holds, before anything was taken.
    """
    at = 0
    for place, waiter in enumerate(waiters):
        count = offer.counts[place] if offer.counts else 0
        keys = offer.keys[place] if offer.keys else NO_KEY
        if not count:
            yield offer.routes[place], offer.messages[at], keys, waiter
            at += 1
            continue
        stored = offer.messages[at : at + count]
        if count > 1 and group_bytes(stored, keys) > OFFER_BYTES_MAX:
            raise MalformedFrameError("a group that no entry holds")
        yield offer.routes[place], stored, keys, waiter
        at += count


def total(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the sums of equal samples."""
    sums: dict[str, float] = {}
    for samples in parts:
        for sample, value in samples.items():
            sums[sample] = sums.get(sample, 0.0) + value
    return sums


def counted(samples: dict[str, float]) -> dict[str, float]:
    """Return those that only grow: they count on when the worker is gone."""
    return {
        sample: value
        for sample, value in samples.items()
        if parse_sample(sample)[0].type is MetricType.COUNTER
    }
