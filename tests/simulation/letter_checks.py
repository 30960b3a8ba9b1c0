"""What must hold of letters: their bytes, where they are, and that they get to their targets.

Decides whether what is seen is allowed, as ``checks`` says. A node *has* a letter if its disk
does, whole, or if the entry that buried it is on its disk and no checkpoint of its has covered
that one yet.
"""

from __future__ import annotations

import hashlib

from tests.simulation.check import Check


def has(node, letter):
    """Tell whether a node's disk has the bytes of a letter."""
    row = node.system.letters.get(letter.number)
    is_stored = row is not None and hashlib.sha256(row.message).digest() == letter.sha256
    if is_stored and not node.system.letters_damaged:
        return True
    durable = node.durable
    return letter.index in durable.terms and letter.index > _covered(node)


def _covered(node):
    """Return the index that a start of this node begins from: what it applies again is above."""
    process = node.process
    store = process.engine.store if process is not None and process.journal is not None else None
    newest = store.newest if store is not None else None
    return newest.index if newest is not None else 0


class LettersKept(Check):
    """I3: a letter's bytes are those that were accepted; at the end every disk has them all."""

    def buried(self, letter, burial, older):
        known = self.truth.positions.get(burial.position)
        if known is None or hashlib.sha256(known[1]).digest() != letter.sha256:
            self.fail(f"letter {letter.number} is not what was accepted at {burial.position}")

    def ended_well(self, processes):
        for process in processes:
            letters, stored = process.engine.ledger.letters, process.node.system.letters
            good = {
                number
                for number, row in stored.items()
                if number in letters
                and hashlib.sha256(row.message).digest() == letters[number].sha256
            }
            if good != set(letters):
                self.fail(f"{process.name} has letters {sorted(good)} of {sorted(letters)}")


class LettersCount(Check):
    """I3: who counts as having everything has every letter; and a majority has what is released."""

    def looked(self, process):
        """A node that says it is whole has the bytes of each letter of its ledger."""
        if not process.engine.letters.whole or process.node.has_rotten_letters:
            return
        story, store = self.truth.story, process.engine._letter_store
        for number in process.engine.ledger.letters:
            letter = story.letters.get(number)
            if (
                letter is not None
                and not has(process.node, letter)
                and not store.is_pending(number)
            ):
                self.fail(f"{process.name} says that it is whole, and lacks letter {number}")

    def covered(self, process):
        """What a new checkpoint covers need not be in the log: its letters are on the disk."""
        if not process.engine.letters.whole or process.node.has_rotten_letters:
            return
        node, covered = process.node, _covered(process.node)
        for letter in self.truth.story.letters.values():
            if letter.index <= covered and not has(node, letter):
                self.fail(
                    f"{node.name}'s checkpoint {covered} covers letter {letter.number}, "
                    "which is not on its disk"
                )

    def promoted(self, process, command):
        """A member that votes from here on has them: it counts for whoever is lost next."""
        ledger = process.engine.ledger
        member = ledger.members.get(command.name)
        node = self.cluster.nodes.get(command.name)
        if member is None or node is None or member.journal_id != node.journal_id:
            return
        if ledger.members_index != ledger.applied_index or node.process is None:
            return
        letters = self.truth.story.letters.values()
        # Letters of entries that its log has yet to get come with those.
        behind = {one.number for one in letters if one.index > node.durable.last}
        lacking = [number for number in self._lacking([node]) if number not in behind]
        if lacking and not node.has_rotten_letters:
            self.fail(f"{command.name} is promoted, and lacks letters {lacking[:5]}")

    def released(self, process, floor):
        """What leaves the logs is with a majority: of letters that were buried up to there."""
        members = process.engine.ledger.members
        voters = [self.cluster.nodes[name] for name, m in members.items() if m.votes]
        for letter in self.truth.story.letters.values():
            if letter.index > floor:
                continue
            # Whoever's letters rotted is the one that may have lost them.
            having = [n.name for n in voters if n.has_rotten_letters or has(n, letter)]
            if len(having) * 2 <= len(voters):
                self.fail(
                    f"entries up to {floor} are released, and letter {letter.number} is with "
                    f"{having} of {sorted(node.name for node in voters)}"
                )
                return

    def _lacking(self, nodes):
        letters = self.truth.story.letters.values()
        return [one.number for one in letters if not all(has(node, one) for node in nodes)]


class ReplaysArrive(Check):
    """A letter that is let go as delivered was delivered, to the consumer that it waited for.

    What is replayed says so, and what is not does not.
    """

    def __init__(self, checks):
        super().__init__(checks)
        self._had = set()

    def attempted(self, request):
        if not request.letter:
            said, state = request.items[0][1].replay, "message"
            wanted = False
        else:
            letter = request.process.engine.ledger.letters.get(request.letter)
            state = letter.state if letter is not None else "gone"
            said, wanted = request.items[0][1].replay, state == "replay"
            if state not in {"replay", "parked"} or letter.target != request.consumer:
                self.fail(
                    f"{request.process.name} attempts letter {request.letter} at "
                    f"{request.definition.name}; it is {state}"
                )
        if said != wanted:
            self.fail(f"an attempt of a {state} says Crowd-Replay: {said}")

    def answering(self, request, answers):
        if not request.letter or getattr(answers[0], "status", 0) // 100 != 2:
            return
        self._had.add((request.consumer, request.letter))

    def let_go(self, letter):
        if letter.fate != "delivered":
            return
        if (letter.target, letter.number) not in self._had:
            self.fail(
                f"letter {letter.number} of position {letter.position} is concluded, and "
                f"consumer {letter.target} has not had it"
            )


class NothingEvicted(Check):
    """No letter goes but by delivery, an operator's order, or its age; none comes beyond the bound."""

    def __init__(self, checks):
        super().__init__(checks)
        self._leads_s = {}
        self._past_s = {}  # when each letter was first seen to be past its age

    def buried(self, letter, burial, older):
        """A consumer has no more bytes of letters than it says: then it is held, and none dies."""
        if older is not None:
            return
        story = self.truth.story
        told = story.consumers[letter.consumer]
        held = sum(one.size for one in story.letters.values() if one.consumer == told.id)
        bound = max(definition.dead.bytes_max for _, definition in told.defined)
        if held > bound:
            self.fail(f"{told.name} has {held} bytes of letters; at most {bound}")

    def let_go(self, letter):
        if letter.fate == "expired":
            definition = self.truth.story.consumers[letter.consumer].definition
            if letter.state != "dead" or definition.dead.for_us > 10**9:
                self.fail(f"letter {letter.number} is given up for its age, and is {letter.state}")

    def looked(self, process):
        """Letters that are past their age go, once somebody looks."""
        now_s = self.world.now
        if not process.leads or not process.engine.may_attempt():
            self._leads_s.pop(process, None)
            return
        since_s = self._leads_s.setdefault(process, now_s)
        ledger = process.engine.ledger
        past = ledger.expired(ledger.log_time_us, 100)
        self._past_s = {number: self._past_s.get(number, now_s) for number in past}
        for number, past_s in self._past_s.items():
            if now_s - max(since_s, past_s) > EXPIRES_LATE_S:
                self.fail(f"letter {number} is past its age, and kept")


EXPIRES_LATE_S = 3.0
"""It is looked for now and then, and only when there is something to do. Not in the log's time, which
a clock that is ahead moves by seconds within a moment."""
