"""All workers of a node: started, followed, started again when one ends, and drained.

Decides when a worker is started again (at once if it had served, else ever later), when one
that says nothing is ended, and what is known of all of them together. Implements
`crowd.ingress.Ingress`. Leaves processes to ``process`` and one worker's messages to ``worker``.

This process listens on the endpoints and never accepts: it hands the listening sockets to
every worker. So a socket lives as long as the node does, and a connection that nobody has
accepted yet is accepted by another worker when one crashes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from crowd.ingress import DRAIN_S, Behind, Routes
from crowd.web.listener import narrow
from crowd.workers.wire import Drain, Renew, configure
from crowd.workers.worker import Worker, counted, total

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.python.failure import Failure

    from crowd.clock import Clock, Timer
    from crowd.config import Configuration
    from crowd.web.tls import ProducerTLS
    from crowd.workers.wire import Configure, State
    from crowd.workers.worker import Engine

STATE_S: Final = 0.1
"""How often the engine's state is compared with what the workers have: a route that is new, or
an end of a refusal, is known so much later than without workers."""

LOOK_S: Final = 1.0
SILENT_TICKS_MAX: Final = 15
"""Looks without a word, while a worker says its numbers once a second: it is stuck. Looks are
counted and not seconds, so that a process that was stopped and woken reads first."""

STARTING_TICKS_MAX: Final = 60
"""The same until its first word: it reads a hundred modules, on a machine that may be busy."""

SERVED_S: Final = 10.0
"""A worker that lived longer did serve: it is started again at once."""

DELAY_FIRST_S: Final = 0.1
DELAY_MOST_S: Final = 5.0
"""Starting costs half a second of a core; this often it does not matter."""

LEAVE_S: Final = 2.0
"""For a drained worker to end, beyond `DRAIN_S`; then it is killed."""


_ACCEPTING: Final = "crowd_http_accepting"

_NOBODY: Final[Any] = Behind(*[None] * 3)  # type: ignore[arg-type]
"""Routes are looked at in the engine's process, and answered in others."""


class Process(Protocol):
    """A worker's process."""

    pid: int

    def kill(self) -> None:
        """End it at once (SIGKILL); nothing happens if it has ended."""


class Spawns(Protocol):
    """How a worker is started; ``process.Spawner`` is the real one."""

    def __call__(
        self, worker: Worker, number: int, listening: Sequence[int], ended: Callable[[str], None]
    ) -> Process:
        """Start a process that has these descriptors, and connect `worker` to it.

        `ended` is called once, in a later turn, with how it ended. Raises OSError if there can
        be no process now.
        """


class _Post:
    """A place for a worker: the one that is there, and how the last ones fared."""

    def __init__(self, number: int, worker: Worker) -> None:
        self.number = number
        self.worker = worker
        self.process: Process | None = None
        self.started_s = 0.0
        self.failures = 0
        self.again: Timer | None = None


class _Quiet(Factory):
    """What Twisted's ports ask for; none of its connections is accepted here."""

    noisy = False


class Crew(Service):
    """The workers of a node, from `startService` on. In the reactor's thread."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        configuration: Configuration,
        endpoints: Sequence[Any],
        *,
        spawn: Spawns,
        engine: Engine,
        state: Callable[[Configuration], State],
        name: bytes,
        tls: ProducerTLS | None = None,
    ) -> None:
        """Make the crew; raises ConfigurationError for a route that cannot be one.

        `name` is the node's in reads that pass through. `tls` has the files that workers use.
        """
        self._name = name
        self._tls = tls
        self._routes = Routes(clock, _NOBODY, 1, name)
        self._told = self._telling(configuration)
        self.listening: Deferred[Any] = Deferred()
        self.draining = False
        self.restarts = 0
        self._clock = clock
        self._configuration = configuration
        self._endpoints = endpoints
        self._spawn = spawn
        self._engine = engine
        self._state = state
        self._posts = [
            _Post(number + 1, Worker(clock, engine)) for number in range(configuration.node.workers)
        ]
        self._gone: dict[str, float] = {}  # what counts on of those that ended
        self._ports: list[Any] = []
        self._empty: Deferred[None] | None = None
        self._pushing = LoopingCall(self._push)
        self._looking = LoopingCall(self._look)
        for loop in (self._pushing, self._looking):
            loop.clock = clock  # type: ignore[assignment]  # of the interface's type

    # --- What the node asks (crowd.ingress.Ingress) -----------------------------------------------

    @property
    def connections(self) -> int:
        """How many producers are connected."""
        return int(self.counters().get("crowd_http_connections", 0))

    def counters(self) -> dict[str, float]:
        """Return the sums over all workers, and what there is to say of each."""
        workers = [post.worker for post in self._posts]
        sums = total([self._gone, *(worker.samples for worker in workers)])
        sums["crowd_workers"] = sum(worker.ready for worker in workers)
        # They share the ports: connections are accepted while any of them accepts.
        sums[_ACCEPTING] = any(worker.samples.get(_ACCEPTING) for worker in workers)
        sums["crowd_worker_restarts_total"] = self.restarts
        for post in self._posts:
            label = f'{{worker="{post.number}"}}'
            sums["crowd_worker_in_flight" + label] = post.worker.in_flight
            sums["crowd_worker_in_flight_bytes" + label] = post.worker.in_flight_bytes
        return sums

    def parts(self) -> list[tuple[str, bool, str]]:
        """Return the line of ``/readyz``: with one worker the node still serves."""
        ready = sum(post.worker.ready for post in self._posts)
        return [("workers", ready > 0 or self.draining, f"{ready} of {len(self._posts)}")]

    def workers(self) -> list[dict[str, Any]]:
        """Return what ``/api/status`` says of each."""
        return [
            {
                "worker": post.number,
                "pid": None if post.process is None else post.process.pid,
                "ready": post.worker.ready,
                "connections": int(post.worker.samples.get("crowd_http_connections", 0)),
                "in_flight": post.worker.in_flight,
            }
            for post in self._posts
        ]

    def use(self, configuration: Configuration) -> None:
        """Have all workers go on with other routes. Raises ConfigurationError."""
        self._told = self._telling(configuration)
        self._configuration = configuration
        for post in self._posts:
            post.worker.tell(self._told)
        self._push()

    def again(self) -> None:
        """Have the files of producers' TLS read again, and all workers go on with them."""
        tls = self._tls
        if tls is None:
            return
        before = tls.contents
        tls.again()
        if tls.contents == before:
            return
        files = tuple(sorted(tls.contents.items()))
        self._told = msgspec.structs.replace(self._told, files=files)
        for post in self._posts:
            post.worker.tell(Renew(files))

    def _telling(self, configuration: Configuration) -> Configure:
        """Return what workers are told. Raises ConfigurationError for what they could not use."""
        self._routes.router(configuration)
        self._routes.upstreams.keep(())
        files = {} if self._tls is None else self._tls.contents
        return configure(configuration, configuration.node.workers, self._name, files)

    def startService(self) -> None:  # noqa: N802  Twisted's name
        """Listen on all endpoints, and start the workers."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        opening = [endpoint.listen(_Quiet()) for endpoint in self._endpoints]
        for each in opening:
            each.addCallback(self._opened)
        gathered = gatherResults(opening, consumeErrors=True)
        gathered.addCallbacks(self._man, self._failed)
        gathered.addCallbacks(self.listening.callback, self.listening.errback)

    def stopService(self) -> Deferred[None]:  # noqa: N802  Twisted's name
        """Have the workers take no more, answer what is under way, and end."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.draining = True
        for post in self._posts:
            if post.again is not None:
                post.again.cancel()
                post.again = None
            post.worker.tell(Drain())
        # The workers have the sockets, too, and close them when they accepted what is queued.
        ports, self._ports = self._ports, []
        for port in ports:
            narrow(port)
            await port.stopListening()
        over = self._clock.callLater(DRAIN_S + LEAVE_S, self._kill)
        self._empty = Deferred()
        empty = self._empty
        self._tell_if_empty()
        await empty
        if over.active():
            over.cancel()
        for loop in (self._pushing, self._looking):
            if loop.running:
                loop.stop()

    # --- Processes ---------------------------------------------------------------------------------

    def _opened(self, port: Any) -> Any:
        port.stopReading()  # it holds the socket; the workers accept
        self._ports.append(port)
        return port

    def _failed(self, failure: Failure) -> Failure:
        error = failure.value
        assert isinstance(error, FirstError), "gatherResults fails with nothing else"
        return error.subFailure

    def _man(self, ports: Any) -> Any:
        for post in self._posts:
            self._start(post)
        self._pushing.start(STATE_S, now=False)
        self._looking.start(LOOK_S, now=False)
        return ports

    def _start(self, post: _Post) -> None:
        post.again = None
        worker = post.worker = Worker(self._clock, self._engine)
        post.started_s = self._clock.seconds()
        listening = [port.fileno() for port in self._ports]
        try:
            post.process = self._spawn(
                worker, post.number, listening, lambda how: self._ended(post, how)
            )
        except OSError as error:
            self._ended(post, str(error))
            return
        worker.tell(self._told)
        worker.push(self._state(self._configuration))

    def _ended(self, post: _Post, how: str) -> None:
        """Start the next one, unless the node stops."""
        worker, post.process = post.worker, None
        self._gone = total([self._gone, counted(worker.samples)])
        worker.samples = {}
        worker.ready = False
        if self.draining:
            self._tell_if_empty()
            return
        lived_s = self._clock.seconds() - post.started_s
        post.failures = 0 if lived_s >= SERVED_S else post.failures + 1
        delay_s = delay(post.failures)
        self.restarts += 1
        self._log.error(
            "worker {worker} ended ({how}), {in_flight} of its messages under way; "
            "it is started again in {delay_s:g} s",
            worker=post.number, how=how, in_flight=worker.in_flight, delay_s=delay_s,
        )  # fmt: skip
        post.again = self._clock.callLater(delay_s, self._start, post)

    def _kill(self) -> None:
        for post in self._posts:
            if post.process is not None:
                self._log.warn("worker {worker} did not end in time", worker=post.number)
                post.process.kill()

    def _tell_if_empty(self) -> None:
        if self._empty is not None and not any(post.process for post in self._posts):
            empty, self._empty = self._empty, None
            empty.callback(None)

    # --- Looks -------------------------------------------------------------------------------------

    def _push(self) -> None:
        state = self._state(self._configuration)
        for post in self._posts:
            post.worker.push(state)

    def _look(self) -> None:
        """End who says nothing any more."""
        for post in self._posts:
            worker, process = post.worker, post.process
            worker.silent_ticks += 1
            patience = SILENT_TICKS_MAX if worker.samples else STARTING_TICKS_MAX
            if process is not None and worker.silent_ticks > patience:
                self._log.error("worker {worker} says nothing: killed", worker=post.number)
                process.kill()


def delay(failures: int) -> float:
    """Return how long to wait, in seconds, after so many workers in a row that did not serve."""
    if not failures:
        return 0.0
    return min(DELAY_MOST_S, DELAY_FIRST_S * 2.0 ** min(failures - 1, 10))
