"""Delivery told as a script: events go in, and what is attempted and kept comes out.

A script is text. Lines that begin with ``>`` are what follows from the line before them; the
others are events:

    consumer NAME [KEY=VALUE ...]   a consumer, with fields of its definition
    accept TARGET ...               messages, in one entry; each has the next position
    NAME answers POSITION WHAT      a status, with @SECONDS for a Retry-After, or a failure's kind
    NAME answers all WHAT           the same for each attempt that is under way, in their order
    pass SECONDS                    time goes by
    pause NAME, resume NAME         an operator's orders
    replay LETTER, purge LETTER     and more of them
    leader dies                     another begins, with what the log has
    leader leaves                   the same, and it has said what there was to say

An attempt is shown as its message's position, and with ``#2`` if it is not the first; a letter's
as ``letter 1``. Those of one request, of a consumer with ``batch=COUNT``, are in brackets; it is answered
by its first one's position. Times are those since the script began.
"""

from __future__ import annotations

from crowd.command import Control, Purge, Replay
from crowd.definition import Answers, Batch, Breaker, Dead, Retry
from crowd.delivery.outcome import Answered, Failed, FailureKind
from tests.unit.delivery.rig import Cluster, Node, consumer, stored


def definition(name, words):
    """Return a definition: waits of 10 s, and no chance in them."""
    given = dict(word.split("=") for word in words)
    take = lambda key, default: type(default)(given.pop(key, default))  # noqa: E731
    retry = Retry(
        10_000_000, 1.0, 10_000_000, round(take("for", 86_400.0) * 1e6), take("attempts", 0), 0.0
    )
    answers = {
        what: tuple(given.pop(what).split(","))
        for what in ("retry", "hold", "dead")
        if what in given
    }
    made = consumer(
        name, order=take("order", "none"), concurrency=take("concurrency", 4), retry=retry,
        rate=given.pop("rate", None), on_dead=take("on_dead", "release"), answers=Answers(**answers),
        breaker=Breaker(take("failures", 10)), batch=batch_of(take("batch", 0)), dead=Dead(bytes_max=take("bytes", 1 << 30)),
    )  # fmt: skip
    assert not given, f"unknown: {given}"
    return made


def batch_of(count):
    return Batch("ndjson", count, linger_us=100_000) if count else None


def shown(naming):
    replayed = "replayed " if naming.replay else ""
    return f"{replayed}{naming.position}" + (f"#{naming.attempt}" if naming.attempt > 1 else "")


class Scenario:
    """A script as it runs."""

    def __init__(self):
        self.consumers = []
        self.cluster = None
        self.node = None
        self.shown = []
        self.seen = {}
        self.letters = set()

    def run(self, script):
        """Return the script with what really followed from each event."""
        lines = []
        for line in script.splitlines():
            if line.startswith(">"):
                continue
            lines.append(line)
            words = line.partition("  #")[0].split()
            if words and not line.startswith("#"):
                self.shown = []
                self.event(*words)
                lines += [f"> {shown}" for shown in self.shown]
        return "\n".join(lines) + "\n"

    def event(self, what, *words):
        if what == "consumer":
            self.consumers.append(definition(words[0], words[1:]))
            return
        if self.cluster is None:
            self.cluster = Cluster(*self.consumers)
            self.lead()
        if what == "accept":
            tip = self.cluster.ledger.tip
            bodies = [stored(b"%d" % (tip + n), target.encode()) for n, target in enumerate(words)]
            self.cluster.accept(*bodies)
            self.advance(0)
        elif what == "pass":
            self.advance(float(words[0]))
        elif what in {"pause", "resume"}:
            self.cluster.append(Control(self.cluster.ledger.consumer_id(words[0]), what))
            self.advance(0)
        elif what == "replay":
            number = int(words[0])
            self.cluster.append(Replay(self.cluster.ledger.letters[number].consumer, (number,)))
            self.advance(0)
        elif what == "purge":
            self.cluster.append(Purge("operator", (int(words[0]),)))
            self.letters.discard(int(words[0]))
            self.advance(0)
        elif what == "leader":
            self.change_leader(leaves=words[0] == "leaves")
        else:
            assert words[0] == "answers", f"no such event: {what}"
            self.answer(what, *words[1:])

    def lead(self):
        self.node = Node(self.cluster)
        self.node.dispatcher.lead()
        self.advance(0)

    def change_leader(self, *, leaves):
        dispatcher = self.node.dispatcher
        if leaves:
            dispatcher.report()
            self.cluster.commit()
        self.cluster.leads = False
        dispatcher.unlead()
        self.cluster.pending.clear()
        self.cluster.leads = True
        self.lead()

    def answer(self, name, which, what):
        said, _, asked = what.partition("@")
        answer = (
            Answered(int(said), float(asked) if asked else None, b"so it is")
            if said.isdigit()
            else Failed(FailureKind(said), "so it is")
        )
        open_here = [each for each in self.node.open if each[2] == name]
        chosen = [each for each in open_here if which in ("all", str(each[0].position))]
        if not chosen:
            self.shown.append(f"there is no attempt at {which}")
        for each in chosen if which == "all" else chosen[:1]:
            self.node.open.remove(each)
            each[1].callback(answer)
        self.advance(0)

    def advance(self, seconds):
        """Let time go by, from each timer to the next, and show what happens."""
        clock = self.cluster.clock
        until_s = clock.seconds() + seconds
        while True:
            clock.advance(0)
            self.show()
            dues = [call.getTime() for call in clock.getDelayedCalls()]
            if not dues or min(dues) > until_s:
                break
            clock.advance(max(0.0, min(dues) - clock.seconds()))
        clock.advance(max(0.0, until_s - clock.seconds()))

    def show(self):
        """Show what is new: attempts, letters, and whether a consumer is held."""
        now = f"{self.cluster.clock.seconds():.2f}"
        attempts, self.node.attempts = self.node.attempts, []
        batches, self.node.batches = self.node.batches, []
        for name in dict.fromkeys(name for name, _, _ in attempts):
            told = [
                f"[{' '.join(map(shown, namings))}]" for taker, namings in batches if taker == name
            ] or [shown(naming) for taker, _, naming in attempts if taker == name]
            self.shown.append(f"{now} {name} gets {' '.join(told)}")
        kept = self.cluster.ledger.letters
        for number in sorted(kept.keys() - self.letters):
            letter = kept[number]
            self.shown.append(
                f"{now} {number} is a letter: position {letter.position}, {letter.reason} "
                f"{letter.status}, {letter.attempts} attempts, {letter.words!r}"
            )
        for number in sorted(self.letters - kept.keys()):
            self.shown.append(f"{now} letter {number} is gone")
        self.letters = set(kept)
        for progress in self.node.dispatcher.progress():
            held = f"is held: {progress.held}" if progress.held else "is not held"
            if self.seen.get(progress.name, "is not held") != held:
                left = f", {progress.held_for_s:.2f} s" if progress.held_for_s is not None else ""
                self.shown.append(f"{now} {progress.name} {held}{left}")
                self.seen[progress.name] = held
