"""Builds a node: the only place that names the reactor and puts the rooms together.

Decides the order in which a node begins and ends. It begins from the disk outwards: journal
and engine, then delivery, then the doors. It ends from the doors inwards: no new requests,
those in flight answered, outcomes proposed, leadership handed over, links and journal closed.

``twistd`` may fork and change directory after `makeService`, so nothing is opened and no
thread is started before `startService`.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import Service
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from crowd import garbage, polling
from crowd.archive import EngineArchive
from crowd.command import Define
from crowd.config import definitions, load_file, single_node
from crowd.consumers import EngineConsumers
from crowd.delivery.courier import make_courier
from crowd.delivery.dispatcher import Dispatcher
from crowd.errors import ConfigurationError, FatalError, SecretUnreadableError
from crowd.ingress import Behind, OwnIngress, keyrings, utc_now, wall_us
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
from crowd.reload import Reload
from crowd.view import (
    EngineAcceptor,
    EngineChanges,
    EngineStandings,
    EngineState,
    EngineView,
)
from crowd.waits import EngineWaits
from crowd.web.admin import Operators, admin_site
from crowd.web.tls import ProducerTLS
from crowd.web.token import open_token
from crowd.wishes import Wishes
from crowd.workers.crew import Crew
from crowd.workers.process import Spawner
from crowd.workers.worker import Engine as ForWorkers

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.archive import Archive
    from crowd.config import Configuration
    from crowd.ingress import Ingress
    from crowd.raft.wire import Hello

SWITCH_INTERVAL_S: Final = 0.0005
"""How long the reactor may keep the interpreter from the journal's writer, which has a disk to
keep busy; Python's default of 5 ms is longer than an acknowledgement should take."""


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
        [
            "upstream",
            "u",
            None,
            "Without a file: one node that delivers writes to this URL, and reads from it.",
        ],
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
        return Node(reactor, configuration, security, path, producer_tls)
    except ConfigurationError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        sys.exit(1)


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


def _check_secrets(configuration: Configuration, seconds: Callable[[], float]) -> None:
    """Read the secrets of doors; raises ConfigurationError for each that cannot be used."""
    problems = []
    for path, ring in keyrings(configuration, seconds).items():
        try:
            ring.current()
        except SecretUnreadableError as error:
            place = f"route[{path}].signature.secrets: {error.reference}"
            problems.append(f"{place}: found no secret that can be used: {error.why}")
    if problems:
        raise ConfigurationError(tuple(problems))


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

        Raises ConfigurationError for a route that cannot be one, or too much for workers to be told.
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
        self._admin_port: Any = None
        self._wishes = Wishes(self.engine, reactor.seconds, self._chance)
        self._orders = Orders(reactor, self._wishes)
        self._tls = tls
        self.ingress = self._make_ingress()
        self._reload = (
            None
            if path is None
            else Reload(reactor, path, configuration, self._use, self.ingress.again)
        )
        self.engine.applied_hooks.append(self._follow_definitions)
        self._within_s = configuration.limits.acknowledge_within_s

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
        self.ingress.listening.addErrback(self._cannot_listen, ", ".join(node.http))
        self.ingress.startService()
        if self._reload is not None:
            self._reload.start()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        garbage.settle()
        polling.call_directly(self._reactor)

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
        await self.ingress.stopService()
        await self.dispatcher.stopService()
        await self.engine.stopService()
        if self._admin_port is not None:
            await self._admin_port.stopListening()
        self._writer.close()
        self._background.close()
        self._letters.close()
        self._log.info("stopped")

    def _listen(self, admin: str, token: str) -> None:
        archive = EngineArchive(self.engine)
        view = EngineView(
            self.engine,
            self.dispatcher,
            self.ingress,
            self._within_s,
            archive,
            self._waits,
            self._tls,
            utc_now,
        )
        site = admin_site(view, self._operators(archive), token)
        opening = self._endpoint(admin).listen(site)
        opening.addCallbacks(self._administers, self._cannot_listen, errbackArgs=(admin,))

    def _administers(self, port: Any) -> None:
        self._admin_port = port

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
        self.ingress.use(configuration)
        self._waits.first = [consumer.name for consumer in configuration.consumers]
        self._configuration = configuration
        self._want_definitions(self.engine)

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

    def _make_ingress(self) -> Ingress:
        """Return the ingress of this process, or that of its workers."""
        configuration, engine = self._configuration, self.engine
        endpoints = [self._endpoint(split_door(text).endpoint) for text in configuration.node.http]
        # Its name in a read's Crowd-Through: another one after a restart does no harm.
        name = b"%016x" % self._chance.getrandbits(64)
        self._waits.first = [consumer.name for consumer in configuration.consumers]
        seen = EngineStandings(engine)
        if not configuration.node.workers:
            behind = Behind(EngineAcceptor(engine), seen, self._waits)
            return OwnIngress(self._reactor, configuration, behind, endpoints, name, self._tls)
        return Crew(
            self._reactor,
            configuration,
            endpoints,
            spawn=Spawner(self._reactor, configuration.node.name),
            engine=ForWorkers(engine.proposer.accept_many, seen, self._waits),
            state=EngineState(engine, self._waits),
            name=name,
            tls=self._tls,
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
