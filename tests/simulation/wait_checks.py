"""What must hold of what producers hear that wait for a consumer.

Decides whether what is told is so, as ``checks`` says: by what consumers' services answered, and by
what the log's entries say (``story``).
"""

from __future__ import annotations

from tests.simulation.check import Check


class WaitsAreTrue(Check):
    """I3: what is told of a message's end holds, whoever leads next.

    It was delivered, and a service answered so; or it is dead, and the log has the letter; or the log
    has that it ended, or that it is not the consumer's.
    """

    def __init__(self, checks):
        super().__init__(checks)
        self._answered = {}
        """By position, the names of the consumers that answered 2xx."""
        self._dead = set()
        self.counts = {}
        """How many were told each end."""

    def answering(self, request, answers):
        for (_, naming), answer in zip(request.items, answers, strict=True):
            if getattr(answer, "status", 0) // 100 == 2:
                self._answered.setdefault(naming.position, set()).add(request.service.name)

    def buried(self, letter, burial, older):
        if burial.state == "dead":
            self._dead.add((letter.consumer, letter.position))

    def waited(self, process, consumer, position, ending):
        self.counts[ending.state] = self.counts.get(ending.state, 0) + 1
        told = self.truth.story.consumers[consumer]
        if not self._is_so(told, position, ending.state):
            self.fail(
                f"{process.name} tells that position {position} is {ending.state} for {told.name}; "
                f"the log has it as {told.fates.get(position, 'nothing')}"
            )

    def _is_so(self, told, position, state):
        fate = told.fates.get(position)
        if state == "dead":
            return (told.id, position) in self._dead
        if state == "delivered":
            names = self._answered.get(position, ())
            # A letter may have been replayed to another consumer.
            return told.name in names or (fate == "letter" and bool(names))
        return fate is not None or not told.takes(
            position, self.truth.story.messages[position - 1][0]
        )
