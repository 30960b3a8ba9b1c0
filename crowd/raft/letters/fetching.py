"""Letters that this node lacks, fetched from its peers.

Decides who is asked for which letter, how much at once, and when again. Any member that has a
letter has the same bytes, as its number and hash say; one that does not have it answers so.
Nobody has a letter that a later entry removed: this node is about to apply that entry too.

In the reactor only. Time is that of the clock, in seconds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from crowd.errors import PeerRejectedError
from crowd.raft.wire import FetchLetter, LetterFetched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from crowd.clock import Clock
    from crowd.raft.letters.ports import LetterLedger
    from crowd.raft.letters.store import LetterStore
    from crowd.raft.wire import PeerMessage

ASKED_AT_ONCE: Final = 64
"""Letters asked for and not here yet: small ones would else wait for a round trip each."""
ASKED_BYTES_MAX: Final = 4 << 20
"""Their bytes; one that is larger is asked for alone. A peer's link takes as much."""
ASK_AGAIN_S: Final = 3.0
"""How long a peer has to answer: a second for the largest at 20 MiB/s, and its other work."""
REST_S: Final = 1.0
"""When a letter is asked for again that no peer had."""
SERVED_BYTES_MAX: Final = 32 << 20
"""Letters read for peers at once. What is beyond that is not answered, and asked for again."""


class _Asked:
    """A letter that was asked for: of whom, when, and who does not have it."""

    __slots__ = ("missed", "name", "since_s", "size")

    def __init__(self, name: str, since_s: float, size: int, missed: set[str]) -> None:
        self.name, self.since_s, self.size, self.missed = name, since_s, size, missed


class Fetching:
    """What is lacking, and who was asked. `peers` returns who is connected."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        store: LetterStore,
        ledger: LetterLedger,
        send: Callable[[str, PeerMessage], bool],
        peers: Callable[[], Sequence[str]],
    ) -> None:
        self._clock = clock
        self._store = store
        self._ledger = ledger
        self._send = send
        self._peers = peers
        self._lacking: set[int] = set()
        self._due: deque[tuple[int, set[str]]] = deque()
        self._asked: dict[int, _Asked] = {}
        self._asked_bytes = 0
        self._resting: deque[tuple[float, int]] = deque()
        self._hurried: set[int] = set()
        self._turn = 0
        self._served_bytes = 0
        self.fetched = 0
        """Letters had from peers since the start."""

    # --- What is lacking ------------------------------------------------------------------------

    @property
    def lacking(self) -> int:
        """How many letters of the ledger are known not to be durable here, nor in the log."""
        return len(self._lacking)

    def is_lacking(self, number: int) -> bool:
        """Tell whether a letter is one of them."""
        return number in self._lacking

    def lack(self, numbers: Iterable[int]) -> None:
        """Note letters that are lacking, and ask for them."""
        new = [number for number in numbers if number not in self._lacking]
        self._lacking.update(new)
        self._due.extend((number, set()) for number in new)
        self.look()

    def first(self, number: int) -> None:
        """Ask for a letter before all others: somebody waits for it."""
        if number in self._lacking and number not in self._hurried:
            self._hurried.add(number)
            self._due.appendleft((number, set()))
            self.look()

    def have(self, numbers: Iterable[int]) -> None:
        """Note letters that are durable here now, or gone from the ledger."""
        for number in numbers:
            self._lacking.discard(number)
            self._hurried.discard(number)
            self._answered(number)

    def forget(self) -> None:
        """Begin anew: the ledger is another one."""
        self._lacking.clear()
        self._due.clear()
        self._asked.clear()
        self._resting.clear()
        self._hurried.clear()
        self._asked_bytes = 0

    # --- Asking ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Ask for what is due, within the bounds. Call it now and then, too."""
        now_s = self._clock.seconds()
        late = [n for n, asked in self._asked.items() if now_s - asked.since_s >= ASK_AGAIN_S]
        for number in late:
            self._ask_another(number)
        while self._resting and self._resting[0][0] <= now_s:
            self._due.append((self._resting.popleft()[1], set()))
        peers = self._peers()
        while self._due and peers and self._has_room():
            number, missed = self._due.popleft()
            if number in self._asked or not self._is_wanted(number):
                continue
            if not self._ask(number, missed, peers, now_s):
                return

    def _has_room(self) -> bool:
        return (
            len(self._asked) < ASKED_AT_ONCE
            and self._asked_bytes < ASKED_BYTES_MAX
            and not self._store.holds
        )

    def _is_wanted(self, number: int) -> bool:
        return (
            number in self._lacking
            and number in self._ledger.letters
            and not self._store.is_pending(number)
        )

    def _ask(self, number: int, missed: set[str], peers: Sequence[str], now_s: float) -> bool:
        """Ask the next peer that may have it; False if it cannot be asked now."""
        left = [name for name in peers if name not in missed]
        if not left:
            self._resting.append((now_s + REST_S, number))
            return True
        self._turn += 1
        name = left[self._turn % len(left)]
        letter = self._ledger.letters[number]
        if not self._send(name, FetchLetter(number=number, sha256=letter.sha256)):
            self._due.appendleft((number, missed))
            return False
        self._asked[number] = _Asked(name, now_s, letter.size, missed)
        self._asked_bytes += letter.size
        return True

    def _answered(self, number: int) -> _Asked | None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            self._asked_bytes -= asked.size
        return asked

    def _ask_another(self, number: int) -> None:
        """Ask somebody else next: this one does not have it, or said nothing."""
        asked = self._answered(number)
        if asked is not None:
            self._due.appendleft((number, asked.missed | {asked.name}))

    def left(self, name: str) -> None:
        """Ask others for what a peer was asked that is not connected any more."""
        for number in [n for n, asked in self._asked.items() if asked.name == name]:
            self._ask_another(number)
        self.look()

    def fetched_from(self, name: str, message: LetterFetched) -> None:
        """Take a peer's answer; a surprise is ignored.

        Raises PeerRejectedError if its length is not what the ledger says.
        """
        number = message.number
        asked = self._asked.get(number)
        if asked is None or asked.name != name:
            return
        if not message.message:
            self._ask_another(number)
            self.look()
            return
        letter = self._ledger.letters.get(number)
        if letter is None:
            self._answered(number)
            return
        if len(message.message) != letter.size:
            raise PeerRejectedError(
                f"its letter {number} has {len(message.message)} bytes, here it has {letter.size}"
            )

        def checked(good: bool) -> None:  # noqa: FBT001  what the check says
            self._checked(name, message, good=good)

        self._store.check(message.message, letter.sha256, checked)

    def _checked(self, name: str, message: LetterFetched, *, good: bool) -> None:
        number = message.number
        if number in self._asked and not good:
            self._log.error("{peer} sent a letter {number} that is none", peer=name, number=number)
            self._ask_another(number)
        elif number in self._asked:
            self._answered(number)
            if self._is_wanted(number):
                self.fetched += 1
                self._store.change([(number, message.message)], ())
        self.look()

    # --- Answering ------------------------------------------------------------------------------

    def asked(self, name: str, message: FetchLetter) -> None:
        """Answer a peer's question with the bytes, or with none if they are not here."""
        number = message.number
        letter = self._ledger.letters.get(number)
        if letter is None or letter.sha256 != message.sha256 or number in self._lacking:
            self._send(name, LetterFetched(number=number, message=b""))
            return
        at_hand = self._store.at_hand(number)
        if at_hand is not None:
            self._send(name, LetterFetched(number=number, message=at_hand))
            return
        if self._served_bytes and self._served_bytes + letter.size > SERVED_BYTES_MAX:
            return
        size = letter.size

        def read(found: bytes | None) -> None:
            self._served_bytes -= size
            self._send(name, LetterFetched(number=number, message=found or b""))
            if found is None and number in self._ledger.letters:
                self.lack([number])

        if self._store.read(number, letter.sha256, read):
            self._served_bytes += size
