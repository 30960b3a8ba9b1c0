"""The story: what the log's entries say became of each message, for each consumer.

Decides, from the commands alone and in plain sets and dictionaries, what a ledger should say of
consumers and letters: who takes what, what of it ended how, which letters there are and whom they
wait for. It is not crowd's ledger and shares nothing with it, so that each can be held against
the other; only what a ledger says of members and of its beginning is taken from it.

Each entry is told once, when the first node applies it.
"""

from __future__ import annotations

import hashlib

from crowd.command import (
    NO_FILE,
    Accept,
    Bury,
    Conclude,
    Control,
    Define,
    Dismiss,
    Once,
    Purge,
    Remember,
    Replay,
    Settle,
    Skip,
)
from crowd.definition import read_start

NOBODY = 0


class Told:
    """A consumer, as the log tells of it."""

    def __init__(self, number, definition, after, since_s):
        self.id = number
        self.name = definition.name
        self.definition = definition
        self.defined = [(since_s, definition)]
        self.after = after
        """The last position before it began."""
        self.epochs = [(after, definition.routes)]
        self.fates = {}
        """By position: ``delivered``, ``letter``, ``skipped`` by an operator, or ``full``."""
        self.own = 0
        self.skipped = 0
        """How many of the fates are ``skipped`` or ``full``."""
        self.backlog_bytes = 0
        self.paused = False
        self.gone = False
        self.remembered = None

    def takes(self, position, route):
        """Tell whether a message is its own."""
        if position <= self.after:
            return False
        routes = next(r for after, r in reversed(self.epochs) if after < position)
        return not routes or route in routes


class Letter:
    """A letter, as the log tells of it. `fate` is empty while it is there."""

    def __init__(self, number, consumer, burial, index, log_time_us):
        self.number = number
        self.consumer = consumer
        self.position = burial.position
        self.state = burial.state
        self.target = consumer if burial.state == "parked" else NOBODY
        self.reason = burial.reason
        self.index = index
        self.buried_us = log_time_us
        self.sha256 = hashlib.sha256(burial.message).digest()
        self.size = len(burial.message)
        self.fate = ""


class Story:
    """All of it. `listener` hears of what ends, with methods named after that."""

    def __init__(self, listener):
        self._listener = listener
        self.consumers = {}
        """By id, those that were dismissed among them."""
        self.names = {}
        """The ids of those that are there."""
        self.letters = {}
        """By number, those that are there."""
        self.last_letter = 0
        self.messages = []
        """By position, from 1: (route's path, bytes)."""
        self._paths = {}
        self._at = {}
        self._files = {}
        self._orders = set()

    @property
    def tip(self):
        return len(self.messages)

    def living(self):
        return [self.consumers[number] for number in self.names.values()]

    def own(self, told):
        """Yield a consumer's messages, rising."""
        for position in range(told.after + 1, self.tip + 1):
            if told.takes(position, self.messages[position - 1][0]):
                yield position

    def letter_at(self, consumer, position):
        """Return the letter of a consumer's message, or None."""
        return self.letters.get(self._at.get((consumer, position)))

    def tell(self, index, value, ledger, now_s):
        """Go on with an applied entry; `ledger` is one that has just applied it."""
        if ledger.tag is None:
            return
        for name in list(self._files):
            if name not in ledger.members:
                del self._files[name]
        if isinstance(value, Once):
            if value.order in self._orders:
                return
            self._orders.add(value.order)
            value = value.command
        act = _ACTS.get(type(value))
        if act is not None:
            act(self, index, value, ledger, now_s)

    # --- Definitions ------------------------------------------------------------------------------

    def _define(self, index, value, ledger, now_s):
        if value.node not in ledger.members or self._files.get(value.node) == value.file_hash:
            return
        if value.file_hash != NO_FILE:
            self._files[value.node] = value.file_hash
        for route in value.routes:
            self._paths.setdefault(route.path, len(self._paths) + 1)
        for definition in value.consumers:
            number = self.names.get(definition.name)
            if number is None:
                self._begin(definition, ledger, now_s)
                continue
            told = self.consumers[number]
            told.definition = definition
            told.defined.append((now_s, definition))
            if definition.routes != told.epochs[-1][1]:
                told.epochs.append((self.tip, definition.routes))

    def _begin(self, definition, ledger, now_s):
        start = read_start(definition.from_)
        after = {"now": self.tip, "position": start.value - 1}.get(start.at, 0)
        after = min(max(after, ledger.beginning), self.tip)
        number = len(self.consumers) + 1
        told = self.consumers[number] = Told(number, definition, after, now_s)
        self.names[definition.name] = number
        for position in self.own(told):
            told.own += 1
            told.backlog_bytes += self.messages[position - 1][1]

    def _dismiss(self, index, value, ledger, now_s):
        told = self._living(value.consumer)
        if told is None or (value.backlog == "refuse" and told.own > len(told.fates)):
            return
        told.gone = True
        del self.names[told.name]
        for letter in self.letters.values():
            if letter.target == told.id:
                letter.state, letter.target = "dead", NOBODY

    def _living(self, number):
        told = self.consumers.get(number)
        return None if told is None or told.gone else told

    # --- Messages ---------------------------------------------------------------------------------

    def _accept(self, index, value, ledger, now_s):
        first = self.tip + 1
        if ledger.tip == self.tip:
            return  # it was refused
        paths = {number: path for path, number in self._paths.items()}
        for route, message in zip(value.routes, value.messages, strict=True):
            self.messages.append((paths[route], len(message)))
        for told in self.living():
            before_bytes = told.backlog_bytes
            taken = [
                position
                for position in range(first, self.tip + 1)
                if told.takes(position, self.messages[position - 1][0])
            ]
            for position in taken:
                told.own += 1
                told.backlog_bytes += self.messages[position - 1][1]
            if not taken:
                continue
            is_skipped = ledger.is_settled(told.id, taken[0])
            self._listener.took(told, before_bytes, now_s, is_skipped)
            if is_skipped:
                for position in taken:
                    self._end(told, position, "full")

    def _end(self, told, position, fate):
        """Note that a message ended, if it is the consumer's and had not; return whether."""
        if position in told.fates or not 0 < position <= self.tip:
            return False
        path, size = self.messages[position - 1]
        if not told.takes(position, path):
            return False
        told.fates[position] = fate
        told.skipped += fate in {"skipped", "full"}
        told.backlog_bytes -= size
        return True

    def _settle(self, index, value, ledger, now_s):
        told = self._living(value.consumer)
        for first, last in value.ranges if told is not None else ():
            for position in range(first, last + 1):
                if self._end(told, position, "delivered"):
                    self._listener.settled(told, position)

    def _skip(self, index, value, ledger, now_s):
        told = self._living(value.consumer)
        for position in range(1, value.through + 1) if told is not None else ():
            self._end(told, position, "skipped")

    def _control(self, index, value, ledger, now_s):
        told = self._living(value.consumer)
        if told is not None:
            told.paused = value.action == "pause"

    def _remember(self, index, value, ledger, now_s):
        told = self._living(value.consumer)
        if told is not None:
            told.remembered = value

    # --- Letters ----------------------------------------------------------------------------------

    def _bury(self, index, value, ledger, now_s):
        told = self._living(value.consumer)
        for burial in value.letters:
            older = self.letter_at(value.consumer, burial.position)
            if older is not None:
                if burial.state == "parked" or older.target != (value.target or value.consumer):
                    continue
                self._let_go(older, "again")
            elif told is None or not self._end(told, burial.position, "letter"):
                continue
            self.last_letter += 1
            letter = Letter(self.last_letter, value.consumer, burial, index, ledger.log_time_us)
            self.letters[letter.number] = letter
            self._at[value.consumer, burial.position] = letter.number
            self._listener.buried(letter, burial, older)

    def _let_go(self, letter, fate):
        letter.fate = fate
        del self.letters[letter.number]
        del self._at[letter.consumer, letter.position]
        self._listener.let_go(letter)

    def _conclude(self, index, value, ledger, now_s):
        for number in value.letters:
            letter = self.letters.get(number)
            if letter is not None and letter.target == value.consumer:
                self._let_go(letter, "delivered")

    def _replay(self, index, value, ledger, now_s):
        if self._living(value.consumer) is None:
            return
        for number in value.letters:
            letter = self.letters.get(number)
            if letter is None or letter.state == "parked":
                continue
            letter.state, letter.target = "replay", value.consumer

    def _purge(self, index, value, ledger, now_s):
        for number in value.letters:
            letter = self.letters.get(number)
            if letter is None:
                continue
            if value.reason == "operator":
                self._let_go(letter, "purged")
                continue
            for_us = self.consumers[letter.consumer].definition.dead.for_us
            if letter.state == "dead" and letter.buried_us <= ledger.log_time_us - for_us:
                self._let_go(letter, "expired")


_ACTS = {
    Define: Story._define,
    Dismiss: Story._dismiss,
    Accept: Story._accept,
    Settle: Story._settle,
    Skip: Story._skip,
    Control: Story._control,
    Remember: Story._remember,
    Bury: Story._bury,
    Conclude: Story._conclude,
    Replay: Story._replay,
    Purge: Story._purge,
}
