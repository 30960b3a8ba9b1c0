"""One worker as the engine's process knows it: what it offered, and what it is still to hear.

Decides how answers go back (all of one turn in one write, runs of positions in one frame) and
what of a worker's numbers is believed. Hands messages on as they came: nothing is decoded
here but the frame around them. Leaves processes to ``crew``, and messages to the proposer.

Two objects for a message would be a third of what it costs here; there is one, which is its
waiter (`_Message`), without a Deferred.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from crowd.errors import MalformedFrameError
from crowd.metrics import MetricType, parse_sample
from crowd.raft.frames import FRAME_BYTES_MAX
from crowd.workers.acceptor import WINDOW_BYTES
from crowd.workers.wire import (
    Accepted,
    Offer,
    Refused,
    decode_from_worker,
    refusal_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crowd.clock import Clock
    from crowd.message import Position, RouteId
    from crowd.raft.proposer import Waiter
    from crowd.workers.link import WorkerLink
    from crowd.workers.wire import State, Tally, ToWorker

IN_FLIGHT_BYTES_MAX: Final = WINDOW_BYTES + FRAME_BYTES_MAX
"""A worker that keeps its window never has more unanswered; above it, its link is not read."""


class TakesMany(Protocol):
    """What `Proposer.accept_many` is."""

    def __call__(
        self, offers: Iterable[tuple[RouteId, bytes, Waiter]], waited_s: float = 0.0
    ) -> None:
        """Take messages, each with who waits for it; all are told, now or later."""


class _Offering:
    """An offer under way, and the worker that is to hear of it."""

    __slots__ = ("batch", "left", "size_bytes", "worker")

    def __init__(self, worker: Worker, batch: int, count: int, size_bytes: int) -> None:
        self.worker = worker
        self.batch = batch
        self.left = count
        self.size_bytes = size_bytes


class _Message:
    """Who waits for one message of an offer: `crowd.raft.proposer.Waiter`."""

    __slots__ = ("offering", "place")

    def __init__(self, offering: _Offering, place: int) -> None:
        self.offering = offering
        self.place = place

    def callback(self, position: Position, /) -> None:
        self.offering.worker.decided(self.offering, self.place, position, None)

    def errback(self, error: Exception, /) -> None:
        self.offering.worker.decided(self.offering, self.place, None, error)


class _Run:
    """Messages of one offer that follow one another and have the same fate."""

    __slots__ = ("count", "error", "offering", "place", "position")

    def __init__(
        self, offering: _Offering, place: int, position: Position | None, error: Exception | None
    ) -> None:
        self.offering = offering
        self.place = place
        self.position = position
        self.error = error
        self.count = 1

    def frame(self) -> ToWorker:
        batch = self.offering.batch
        if self.position is not None:
            return Accepted(batch, self.place, self.count, self.position)
        assert self.error is not None
        return Refused(batch, self.place, self.count, refusal_of(self.error))


class Worker:
    """A worker's end in the engine's process: `crowd.workers.link.LinkKeeper`.

    `samples` are its door's metrics as of its last tally; `ready` once there was one.
    """

    def __init__(self, clock: Clock, accept_many: TakesMany) -> None:
        self.link: WorkerLink | None = None
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.samples: dict[str, float] = {}
        self.ready = False
        self.silent_ticks = 0
        self.why_lost = ""
        self._clock = clock
        self._accept_many = accept_many
        self._state: State | None = None
        self._runs: list[_Run] = []
        self._answering = False

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
        if type(frame) is Offer:
            self._offered(frame)
        else:
            self._counted(frame)  # type: ignore[arg-type]  # there are two kinds

    def link_writable(self) -> None:
        """Nothing: the next state is pushed with the next look."""

    def link_lost(self, why: str) -> None:
        """Answer no more: the worker's producers are gone with it."""
        self.ready = False
        self.why_lost = why
        self.link = None
        self._runs.clear()

    # --- Messages --------------------------------------------------------------------------------

    def _offered(self, offer: Offer) -> None:
        messages = offer.messages
        size_bytes = sum(map(len, messages))
        offering = _Offering(self, offer.batch, len(messages), size_bytes)
        self.in_flight += len(messages)
        self.in_flight_bytes += size_bytes
        if self.in_flight_bytes > IN_FLIGHT_BYTES_MAX and self.link is not None:
            self.link.read(False)
        waiters = [_Message(offering, place) for place in range(len(messages))]
        self._accept_many(zip(offer.routes, messages, waiters, strict=True), offer.waited_us / 1e6)

    def decided(
        self, offering: _Offering, place: int, position: Position | None, error: Exception | None
    ) -> None:
        """Note a message's fate; the worker hears it at the end of this turn."""
        offering.left -= 1
        self.in_flight -= 1
        if not offering.left:
            self.in_flight_bytes -= offering.size_bytes
        if self.link is None:
            return
        runs = self._runs
        if runs:
            run = runs[-1]
            count = run.count
            if run.offering is offering and run.place + count == place:
                if position is None:
                    follows = run.error is error
                else:
                    follows = run.position is not None and run.position + count == position
                if follows:
                    run.count = count + 1
                    return
        elif not self._answering:
            self._answering = True
            self._clock.callLater(0, self._answer)
        runs.append(_Run(offering, place, position, error))

    def _answer(self) -> None:
        self._answering = False
        runs, self._runs = self._runs, []
        if self.link is not None:
            self.link.write([run.frame() for run in runs])
            if self.in_flight_bytes <= IN_FLIGHT_BYTES_MAX:
                self.link.read(True)

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
