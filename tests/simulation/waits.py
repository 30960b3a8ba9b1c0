"""Producers that wait, simulated: once a node has told them 200, they ask it how the message ended.

Decides for which consumer each waits, and who goes before he is told. Leaves what is told to crowd's
own waits, over the simulated links, and whether it is so to ``wait_checks``. Nobody waits by a mark on
his message, which would change what consumers get: all ask as who comes again with a key does.
"""

from __future__ import annotations

from crowd.message import Position
from crowd.waits import EngineWaits

WITHIN_S = 3.0
GONE_S = 0.2
GONE_EVERY = 7
"""Of so many that wait, one goes after so long."""
AGAIN_S = 0.15
AGAIN_EVERY = 3
"""And of so many, one asks again and again while it waits."""


class Waits:
    """One process's."""

    def __init__(self, process, engine, dispatcher):
        self._process = process
        self._ledger = engine.ledger
        self._waits = EngineWaits(process.clock, engine, dispatcher.awaited)

    def wait(self, positions):
        """Have a producer wait for the messages of its request, each for another consumer."""
        consumers = list(self._ledger.consumers)
        for position in map(Position, positions if consumers else ()):
            consumer = consumers[position % len(consumers)]
            ended = self._wait(position, consumer)
            if position % GONE_EVERY == 0:
                self._later(GONE_S, self._waits.leave, position, consumer, ended)
            elif position % AGAIN_EVERY == 0:
                self._later(AGAIN_S, self._again, position, consumer, ended)

    def _wait(self, position, consumer):
        ended = self._waits.wait(position, consumer, WITHIN_S)
        ended.addCallback(self._told, consumer, position)
        ended.addErrback(self._process.broke)
        return ended

    def _again(self, position, consumer, first):
        if not first.called:
            self._wait(position, consumer)
            self._later(AGAIN_S, self._again, position, consumer, first)

    def _later(self, delay_s, call, *args):
        process = self._process
        process.node.world.at(process.clock.look() + delay_s, call, *args, owner=process)

    def _told(self, ending, consumer, position):
        if ending is not None:
            self._process.node.cluster.checks.waited(self._process, consumer, position, ending)

    def close(self):
        """End all of them: the node stops."""
        self._waits.close()
