"""Operators: what people ask of any node, about consumers and letters, while all else goes on.

Decides what each order of an operator's is, and what operators see to once the faults end: they
have attempts go on, and replay or purge what would hold a consumer for good. Orders go through
crowd's own rooms for operators, on the node that was asked; only a definition is handed to the
log as it is, as what is small enough here no configuration's file may say.

Whoever was asked may end before the log has the order. Then it is forgotten, as in life.
"""

from __future__ import annotations

import random

from crowd.command import NO_FILE, Define
from crowd.errors import ChangeRefusedError
from crowd.web.dead import Selection
from tests.simulation import manners

LATE_MAX = 3
"""Consumers that come while the cluster runs."""
SOON_S = 0.03
"""How soon an operator thinks better of it: before the log has what was asked, at times."""
ENDINGS = ("replay", "purge", "leave")


class Operators:
    """Those who ask."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._chance = random.Random(f"{cluster.plan.seed} operators")
        self._late = 0

    def carry_out(self, kind, fault, node):
        """Ask a node for what a fault's kind names; False if it cannot be asked, or refuses."""
        process = node.process
        if process is None or not process.accepting or process.engine.ledger.tag is None:
            return False
        chance = random.Random(f"{fault.chance} {kind}")
        names = [known.definition.name for known in process.engine.ledger.consumers.values()]
        if not names:
            return False
        return self._ask(process, _ORDERS[kind], chance.choice(names), fault, chance)

    def _ask(self, process, order, *args):
        """Have a process's rooms take an order, in a turn of its own."""
        result = []

        def turn():
            try:
                result.append(order(self, process, *args))
            except ChangeRefusedError as error:
                self._cluster.world.trace(f"{process.name} refuses: {str(error)[:60]}")
                result.append(False)

        process.turn(turn)
        return result[0] if result else None  # it ended meanwhile

    # --- Consumers --------------------------------------------------------------------------------

    def _pause(self, process, name, fault, chance):
        process.consumers.control(name, "pause")
        for_s = fault.for_s if fault.power else SOON_S  # it was a mistake
        self._cluster.world.after(for_s, self._resume_somewhere, name)

    def _resume_somewhere(self, name):
        processes = self._cluster.processes()
        if processes:
            self._ask(self._chance.choice(processes), Operators._resume, name, None, None)

    def _resume(self, process, name, fault, chance):
        process.consumers.control(name, "resume")

    def _skip(self, process, name, fault, chance):
        tip = process.engine.ledger.tip
        through = None if fault.power else chance.randrange(tip // 2, tip + 1) or None
        process.consumers.skip(name, through)

    def _remove(self, process, name, fault, chance):
        process.consumers.remove(name, drop=fault.power)

    def _add(self, process, name, fault, chance):
        if self._late >= LATE_MAX:
            return False
        cluster = self._cluster
        self._late += 1
        definition = cluster.make_consumer(f"late-{self._late}", ())
        return self._define(process, definition)

    def _define(self, process, definition):
        """Ask as `crowd.consumers.EngineConsumers.apply` does, once it has read a table."""
        command = Define(process.name, NO_FILE, (), (definition,))
        process.wishes.ask(f"definition of {definition.name}", command)

    def _redefine(self, process, name, change):
        ledger = process.engine.ledger
        self._define(process, change(ledger.consumers[ledger.consumer_id(name)].definition))

    def _order(self, process, name, fault, chance):
        self._redefine(process, name, lambda known: manners.reordered(known, chance))

    def _pace(self, process, name, fault, chance):
        self._redefine(process, name, lambda known: manners.redrawn(known, chance))

    def _target(self, process, name, fault, chance):
        self._redefine(process, name, manners.moved)

    # --- Letters ----------------------------------------------------------------------------------

    def _letters(self, process):
        """Return letters that may be replayed or purged; there must be some."""
        letters = process.engine.ledger.letters
        return [number for number in letters if letters[number].state != "parked"]

    def _replay_one(self, process, name, fault, chance):
        numbers = self._letters(process)
        if not numbers:
            return False
        to = name if fault.power else None
        process.dead_letters.replay((chance.choice(numbers),), to=to, rate=None)
        return None

    def _replay_all(self, process, name, fault, chance):
        if not self._letters(process):
            return False
        rate = chance.choice((None, None, 20.0))
        process.dead_letters.replay(Selection(consumer=name), to=None, rate=rate)
        return None

    def _replay_elsewhere(self, process, name, fault, chance):
        if not self._letters(process):
            return False
        if not fault.power:
            self._elsewhere(process, name, None, chance)
            return None
        process.dead_letters.replay(Selection(consumer=name), to=None, rate=None)
        later_s = SOON_S + 0.2 * chance.random()
        self._cluster.world.after(later_s, self._elsewhere_later, process, name, chance)
        return None

    def _elsewhere_later(self, process, name, chance):
        """Have what is on its way to one consumer go to another one."""
        if process.alive and process.accepting:
            self._ask(process, Operators._elsewhere, name, "replay", chance)

    def _elsewhere(self, process, name, state, chance):
        consumers = process.engine.ledger.consumers.values()
        if consumers:
            to = chance.choice([known.definition.name for known in consumers])
            process.dead_letters.replay(Selection(consumer=name, state=state), to=to, rate=None)

    def _purge(self, process, name, fault, chance):
        numbers = self._letters(process)
        if not numbers:
            return False
        wanted = Selection(consumer=name) if fault.power else (chance.choice(numbers),)
        process.dead_letters.purge(wanted, rate=None)
        return None

    # --- Once the faults end ----------------------------------------------------------------------

    def see_to_all(self):
        """Have every consumer's messages move on: to be called again until they did."""
        leader = self._cluster.leader
        if leader is None or leader.engine.ledger.tag is None:
            return
        for known in list(leader.engine.ledger.consumers.values()):
            name = known.definition.name
            if known.paused:
                self._ask(leader, Operators._resume, name, None, None)
            self._end_letters(leader, known)

    def _end_letters(self, leader, known):
        definition, ledger = known.definition, leader.engine.ledger
        ending = random.Random(f"{self._cluster.plan.seed} {definition.name} end").choice(ENDINGS)
        is_held = definition.on_dead == "hold" or ledger.dead_bytes(known.id) > (
            definition.dead.bytes_max // 2
        )
        if ending == "leave" and is_held:
            ending = "purge"
        counts = ledger.letter_counts(known.id)
        busy = any(not order["ended"] for order in leader.dead_letters.orders())
        if ending == "leave" or not counts["dead"] or busy:
            return
        wanted = Selection(consumer=definition.name)

        def order(operators, process):
            if ending == "replay":
                process.dead_letters.replay(wanted, to=None, rate=None)
            else:
                process.dead_letters.purge(wanted, rate=None)

        self._ask(leader, order)


_ORDERS = {
    "consumer-pause": Operators._pause,
    "consumer-resume": Operators._resume,
    "consumer-skip": Operators._skip,
    "consumer-remove": Operators._remove,
    "consumer-add": Operators._add,
    "consumer-order": Operators._order,
    "consumer-pace": Operators._pace,
    "consumer-target": Operators._target,
    "letter-replay": Operators._replay_one,
    "letters-replay": Operators._replay_all,
    "letters-elsewhere": Operators._replay_elsewhere,
    "letters-purge": Operators._purge,
}
