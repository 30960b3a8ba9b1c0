"""Builds a node: the only place that names the reactor and puts the rooms together.

Decides the order in which a node begins and ends. It begins from the disk outwards: journal
and engine, then delivery, then the doors. It ends from the doors inwards: no new requests,
those in flight answered, outcomes proposed, leadership handed over, links and journal closed.

``twistd`` may fork and change directory after `makeService`, so nothing is opened and no
thread is started before `startService`.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import Service
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from crowd.archive import EngineArchive
from crowd.command import Define
from crowd.config import definitions, load_file, single_node
from crowd.consumers import EngineConsumers
from crowd.delivery.courier import make_courier
from crowd.delivery.dispatcher import Dispatcher
from crowd.delivery.secrets import Keyring
from crowd.door.door import Door
from crowd.door.proxies import Proxies
from crowd.door.signatures import parser
from crowd.errors import ConfigurationError, FatalError, SecretUnreadableError
from crowd.kinds import split_address, split_door
from crowd.letters import EngineLetters
from crowd.orders import Orders
from crowd.raft import guard
from crowd.raft.engine import Engine
from crowd.raft.journal import DiskFileSystem, ThreadWriter
from crowd.raft.letters import LetterStore, SqliteShelf
from crowd.raft.links import PeerLinks
from crowd.raft.seams import Bounds, Identity, Seams, Space
from crowd.raft.storage import open_storage
from crowd.raft.tls import MutualTLS
from crowd.reads.upstream import Upstreams
from crowd.reload import Reload
from crowd.view import Aside, EngineAcceptor, EngineChanges, EngineStandings, EngineView
from crowd.waits import EngineWaits
from crowd.web.admin import Operators, admin_site
from crowd.web.announced import Balancers
from crowd.web.entrance import Entrance, Tally
from crowd.web.ingest import Ingest
from crowd.web.limits import WebLimits
from crowd.web.listener import ProducerListener, Producers, WrappedEndpoint
from crowd.web.messages import MessagePages
from crowd.web.router import Router
from crowd.web.through import Through
from crowd.web.tls import ProducerTLS
from crowd.web.token import open_token
from crowd.web.waiting import Waiting
from crowd.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.archive import Archive
    from crowd.config import Configuration
    from crowd.door.signatures import Verifier
    from crowd.raft.wire import Hello

DRAIN_S: Final = 10.0
"""How long a stopping node waits for answers; longer than `acknowledge_within` by default."""

SWITCH_INTERVAL_S: Final = 0.0005
"""How long the reactor may keep the interpreter from the journal's writer, which has a disk to
keep busy; Python's default of 5 ms is longer than an acknowledgement should take."""

GARBAGE_THRESHOLDS: Final = (50_000, 20, 100)
"""A request makes few cycles; the default thresholds would look for some 30 times a second."""


class Options(UsageOptions):
    """The options of ``twistd crowd``."""

    synopsis = "--config FILE | --upstream URL [--directory DIR]"
    optParameters = [  # noqa: RUF012  Twisted reads a list
        [
            "config",
            "c",
            None,
            "A node's configuration (TOML); see docs/reference/configuration.md.",
        ],
        ["upstream", "u", None, "Without a file: one node that delivers everything to this URL."],
        ["directory", "d", "crowd-data", "Without a file: where the node keeps its data."],
    ]

    def postOptions(self) -> None:  # noqa: N802  Twisted's name
        """Ask for one of the two."""
        if (self["config"] is None) == (self["upstream"] is None):
            raise UsageError("give --config FILE or --upstream URL, one of the two")


def makeService(options: Options) -> Service:  # noqa: N802  Twisted's name
    """Return the node that the options name; end the process if its configuration is bad."""
    from twisted.internet import reactor  # noqa: PLC0415  installed by now, and not before

    try:
        path = None
        if options["config"] is not None:
            path = Path(options["config"]).absolute()
            configuration = load_file(options["config"])
        else:
            configuration = single_node(options["upstream"], directory=options["directory"])
        security = _security(configuration, reactor)
        _check_secrets(configuration, time.monotonic)
        tls = configuration.node.tls
        producer_tls = None if tls is None else ProducerTLS(tls, utc_now)
    except ConfigurationError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        sys.exit(1)
    return Node(reactor, configuration, security, path, producer_tls)


def _security(configuration: Configuration, clock: Any) -> MutualTLS | None:
    """Read the cluster's certificates; raises ConfigurationError with every problem."""
    cluster = configuration.cluster
    if cluster is None:
        return None
    read: dict[str, bytes] = {}
    problems = []
    for key in ("certificate", "private_key", "authority"):
        path = Path(getattr(cluster, key))
        try:
            read[key] = path.read_bytes()
        except OSError as error:
            problems.append(f"{path}: cluster.{key}: found {error.strerror}; expected a PEM file")
    if problems:
        raise ConfigurationError(tuple(problems))
    return MutualTLS(clock, cluster=cluster.name, name=configuration.node.name, **read)


def _keyrings(
    configuration: Configuration,
    seconds: Callable[[], float],
    tell: Callable[[SecretUnreadableError], None] = lambda _: None,
) -> dict[str, Keyring[Verifier]]:
    """Return the keyrings of the routes whose requests are signed, by their paths."""
    return {
        policy.path: Keyring(
            policy.signature.secrets, seconds, parse=parser(policy.signature.form), tell=tell
        )
        for policy in configuration.policies
        if policy.signature is not None
    }


def _check_secrets(configuration: Configuration, seconds: Callable[[], float]) -> None:
    """Read the secrets of doors; raises ConfigurationError for each that cannot be used."""
    problems = []
    for path, ring in _keyrings(configuration, seconds).items():
        try:
            ring.current()
        except SecretUnreadableError as error:
            place = f"route[{path}].signature.secrets: {error.reference}"
            problems.append(f"{place}: found no secret that can be used: {error.why}")
    if problems:
        raise ConfigurationError(tuple(problems))


def wall_us() -> int:
    """Return the wall clock in microseconds since 1970."""
    return time.time_ns() // 1000


def utc_now() -> datetime:
    """Return the wall clock, in UTC."""
    return datetime.now(UTC)


class Node(Service):
    """One crowd process."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        configuration: Configuration,
        security: MutualTLS | None,
        path: Path | None = None,
        tls: ProducerTLS | None = None,
    ) -> None:
        """Put the parts together; nothing begins before startService.

        `path` is that of the configuration's file, which SIGHUP has read again.
        """
        self._reactor = reactor
        self._configuration = configuration
        self._security = security
        self._chance = random.Random()  # noqa: S311  chance, not secrets: jitter, timeouts, ids
        # callLater follows the wall clock unless told otherwise: one step back, and every
        # heartbeat is late by it.
        reactor.seconds = time.monotonic
        self._writer = ThreadWriter(reactor, "crowd-journal")
        self._background = ThreadWriter(reactor, "crowd-background")
        self._letters = ThreadWriter(reactor, "crowd-letters")
        self._filesystem = DiskFileSystem()
        self.engine = self._make_engine()
        self.dispatcher = self._make_dispatcher()
        self._waits = EngineWaits(reactor, self.engine, self.dispatcher.awaited)
        self._doors: list[Any] = []
        self._wishes = Wishes(self.engine, reactor.seconds, self._chance)
        self._tally = Tally()
        self._orders = Orders(reactor, self._wishes)
        self._tls = tls
        again = (lambda: None) if tls is None else tls.again
        self._reload = (
            None if path is None else Reload(reactor, path, configuration, self._use, again)
        )
        self.engine.applied_hooks.append(self._follow_definitions)
        limits = configuration.limits
        self._within_s = limits.acknowledge_within_s
        self._upstreams = Upstreams(reactor, limits.reads)
        # Its name in a read's Crowd-Through: another one after a restart does no harm.
        self._through = Through(self._upstreams, b"%016x" % self._chance.getrandbits(64))
        self.producers = self._make_producers(
            WebLimits(body_bytes_max=limits.body_bytes, in_flight_bytes_max=limits.in_flight_bytes)
        )

    # --- Life ---------------------------------------------------------------------------------

    def startService(self) -> None:  # noqa: N802  Twisted's name
        """Open the journal, join the cluster, and open the doors."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        node = self._configuration.node
        try:
            guard.install(time.monotonic, self._chance)
            self.engine.startService()
            token = open_token(node.directory)
        except FatalError as error:
            self._end(error)
        self.dispatcher.startService()  # type: ignore[no-untyped-call]  # Twisted's
        self._listen(node.admin, token)
        listener = ProducerListener(
            self._reactor,
            [self._door(text) for text in node.http],
            self.producers,
            drain_s=DRAIN_S,
        )
        listener.listening.addErrback(self._cannot_listen, ", ".join(node.http))
        listener.startService()
        self._doors.append(listener)
        if self._reload is not None:
            self._reload.start()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.collect()
        gc.freeze()  # what is there by now stays: no collection need look at it again
        gc.set_threshold(*GARBAGE_THRESHOLDS)

    def stopService(self) -> Deferred[None]:  # noqa: N802  Twisted's name
        """End, from the doors inwards."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._log.info("stops: no new requests from here on")
        if self._reload is not None:
            self._reload.stop()
        self._orders.close()
        self._waits.close()
        listener = self._doors.pop() if self._doors else None
        if listener is not None:
            await listener.stopService()
        self._upstreams.abort()
        await self.dispatcher.stopService()
        await self.engine.stopService()
        for port in self._doors:
            await port.stopListening()
        self._writer.close()
        self._background.close()
        self._letters.close()
        self._log.info("stopped")

    def _listen(self, admin: str, token: str) -> None:
        archive = EngineArchive(self.engine)
        view = EngineView(
            self.engine,
            self.dispatcher,
            self.producers,
            self._within_s,
            archive,
            Aside(self._upstreams.tally, self._waits),
            self._tls,
            utc_now,
        )
        site = admin_site(view, self._operators(archive), token)
        opening = self._endpoint(admin).listen(site)
        opening.addCallbacks(
            lambda port: self._doors.insert(0, port), self._cannot_listen, errbackArgs=(admin,)
        )

    def _operators(self, archive: Archive) -> Operators:
        node = self._configuration.node.name
        return Operators(
            EngineChanges(self.engine),
            EngineConsumers(self._wishes, node, archive, self.dispatcher.progress),
            EngineLetters(self._reactor, self._wishes, archive, self._orders),
        )

    def _use(self, configuration: Configuration) -> None:
        """Go on with other routes and consumers, once the log has them. The doors first.

        A route that is new is answered 503 until then. Raises ConfigurationError for a route
        that cannot be one, and has changed nothing then.
        """
        _check_secrets(configuration, self._reactor.seconds)
        try:
            router = self._make_router(configuration)
        except (LookupError, ValueError) as error:
            raise ConfigurationError((f"route: found {error}; expected Klein's rules",)) from None
        self.producers.use(router)
        self._upstreams.keep(configuration.routes)
        self._configuration = configuration
        self._want_definitions(self.engine)

    def _cannot_check(self, error: SecretUnreadableError) -> None:
        self._log.error("signatures cannot be verified: {error}", error=str(error))

    def _cannot_listen(self, failure: Any, endpoint: str) -> None:
        self._end(FatalError(f"cannot listen on {endpoint}: {failure.getErrorMessage()}"))

    def _end(self, error: FatalError) -> None:
        """End the process now, with the reason as its last words (I8)."""
        self._log.critical("the node ends: {error}", error=str(error))
        sys.stderr.write(f"crowd: {error}\n")
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(1)

    # --- Parts --------------------------------------------------------------------------------

    def _make_engine(self) -> Engine:
        configuration, node = self._configuration, self._configuration.node
        cluster = configuration.cluster
        peers = cluster.peers if cluster is not None else {}
        limits = configuration.limits
        seams = Seams(
            open_storage=lambda: open_storage(
                node.directory,
                cluster=configuration.cluster_name,
                node=node.name,
                filesystem=self._filesystem,
                writer=self._writer,
                background=self._background,
                letters=lambda: LetterStore(SqliteShelf(node.directory), self._letters),
            ),
            make_links=self._links_of() if cluster is not None else None,
            space=self._space,
            on_fatal=self._end,
        )
        engine = Engine(
            self._reactor,
            wall_us,
            self._chance,
            Identity(node.name, configuration.cluster_name, peers),
            seams,
            Bounds(
                limits.acknowledge_within_s,
                limits.backlog_bytes,
                limits.retention_us,
                backlog_messages=limits.backlog_messages,
            ),
        )
        self._want_definitions(engine)
        return engine

    def _want_definitions(self, engine: Engine) -> None:
        """Have the log hold the file's routes and consumers, and its bounds of keys."""
        configuration, name = self._configuration, self._configuration.node.name
        routes, consumers = definitions(configuration)
        define = Define(name, configuration.file_hash, routes, consumers, configuration.idempotency)
        engine.want(
            "configuration",
            lambda ledger: ledger.file_hashes.get(name) == configuration.file_hash,
            lambda: define,
        )

    def _follow_definitions(self) -> None:
        """Want this node's file again if an older form of it came into the log behind a newer one.

        That form was offered, and the file changed twice before the log had it.
        """
        own = self._configuration
        known = self.engine.ledger.file_hashes.get(own.node.name)
        if known is not None and known != own.file_hash:
            self._want_definitions(self.engine)

    def _links_of(self) -> Callable[[Engine, Callable[[], Hello]], PeerLinks]:
        node, reactor, security = self._configuration.node, self._reactor, self._security
        assert security is not None
        assert node.peer is not None
        dial: Any = endpoints.clientFromString  # Twisted's, without types
        accept = self._endpoint(node.peer)

        def make(engine: Engine, hello: Callable[[], Hello]) -> PeerLinks:
            return PeerLinks(
                reactor,
                name=node.name,
                hello=hello,
                dial=lambda address: dial(reactor, _dialled(address)),
                accept=accept,
                security=security,
                listener=engine,
                chance=self._chance.random,
            )

        return make

    def _make_dispatcher(self) -> Dispatcher:
        engine, reactor = self.engine, self._reactor

        def courier(definition: Any) -> Any:
            return make_courier(reactor, definition, engine.may_attempt, dispatcher.spent)

        dispatcher = Dispatcher(
            reactor,
            self._chance,
            engine.ledger,
            engine,
            courier,
            lambda: engine.producers_wait,
            self._end,
            time.thread_time,
        )
        engine.applied_hooks.append(dispatcher.advanced)
        engine.leading_hooks.append(dispatcher.leading)
        engine.leaving_hooks.append(dispatcher.report)
        engine.letter_hooks.append(dispatcher.letters_came)
        return dispatcher

    def _make_producers(self, limits: WebLimits) -> Producers:
        router = self._make_router(self._configuration)
        return Producers(self._reactor, router, limits, time.time, self._tally)

    def _make_router(self, configuration: Configuration) -> Router:
        routes, _ = definitions(configuration)
        node = configuration.node
        rings = _keyrings(configuration, self._reactor.seconds, self._cannot_check)
        doors = {
            policy.path: Door(policy, rings.get(policy.path))
            for policy in configuration.policies
            if not policy.asks_nothing
        }
        entrance = Entrance(doors, wall_us, self._reactor.seconds, self._tally)
        proxies = Proxies(node.trusted_proxies, node.proxy_field) if node.trusted_proxies else None
        self._waits.first = [consumer.name for consumer in configuration.consumers]
        waits = {each.path: each.wait_s for each in configuration.policies if each.wait_s}
        pages = MessagePages(
            EngineStandings(self.engine), {route.path for route in routes}, entrance, waits, proxies
        )
        ingest = Ingest(
            EngineAcceptor(self.engine), routes, wall_us, self._through, entrance, proxies,
            Waiting(self._waits, waits) if waits else None, pages,
        )  # fmt: skip
        return Router(ingest.app, [host.encode("ascii") for host in node.hosts], entrance)

    def _door(self, text: str) -> Any:
        """Return a producers' port: its endpoint, and what its connections begin with."""
        door = split_door(text)
        endpoint = self._endpoint(door.endpoint)
        # From the network inwards: first the balancer's header, then TLS, then HTTP.
        if door.is_proxied:
            endpoint = WrappedEndpoint(endpoint, self._announced)
        if door.is_tls:
            tls = self._tls
            assert tls is not None, "the configuration has seen to it"
            endpoint = WrappedEndpoint(
                endpoint, lambda factory: tls.accepting(factory, self._reactor)
            )
        return endpoint

    def _announced(self, factory: Any) -> Balancers:
        return Balancers(
            factory,
            self._configuration.node.balancers,
            self._reactor,
            header_s=self.producers.limits.head_s,
            refused=self.producers.refuse,
        )

    def _endpoint(self, text: str) -> Any:
        make: Any = endpoints.serverFromString  # Twisted's, without types
        return make(self._reactor, text)

    def _space(self) -> Space:
        room = os.statvfs(self._configuration.node.directory)
        return Space(room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize)


def _dialled(address: str) -> str:
    """Return Twisted's endpoint string for a ``host:port``, an IPv6 host in brackets.

    Raises ValueError if it is none.
    """
    host, port = split_address(address)
    host = host.replace(":", "\\:")
    return f"tcp:host={host}:port={port}"
