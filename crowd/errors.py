"""Every error of crowd's own, branched by what its receiver can do about it.

Decides nothing; it only names. Facts are attributes, so that a log line, an HTTP answer
(``crowd/web/problems.py``) and a test read the same ones. *Unknown is not failed*: an
outcome that may still happen has a class of its own (:class:`OutcomeUnknown`).
"""

from __future__ import annotations


class CrowdError(Exception):
    """The root: anything that crowd itself raises."""


# --- Bytes that came from outside: refuse them, keep what was -------------------------------


class MalformedError(CrowdError):
    """Bytes that are not what they should be. The sender is at fault; nothing was changed."""


class MalformedMessageError(MalformedError):
    """A stored message does not decode."""


class MalformedCommandError(MalformedError):
    """A command is not CBOR of a known shape."""


class MalformedFrameError(MalformedError):
    """A peer's frame, hello or message is not what the protocol allows."""


class PeerRejectedError(CrowdError):
    """A peer that proved to be another than expected, or proved nothing. Disconnect it."""


# --- A proposal's fate: the producer may try again --------------------------------------------


class RefusedError(CrowdError):
    """Certainly not stored. ``retry_after_s`` is when to try again, in whole seconds."""

    def __init__(self, reason: str, *, retry_after_s: int = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class NoQuorumError(RefusedError):
    """No leader could be asked in time; the message was never offered to one."""


class BacklogFullError(RefusedError):
    """The configured backlog or the disk's floor is reached; delivery goes on."""

    def at(self, retry_after_s: int) -> BacklogFullError:
        """Return the same refusal with another time to try again."""
        return BacklogFullError(self.reason, retry_after_s=retry_after_s)


class DrainingError(RefusedError):
    """This node is stopping; another one takes the message."""


class KeyReusedError(CrowdError):
    """Certainly not stored: its idempotency key came with another request before."""


class OutcomeUnknownError(CrowdError):
    """Offered, but not seen accepted in time: it may be stored, now or soon."""

    def __init__(self, reason: str, *, retry_after_s: int = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


# --- A delivery's attempt: it is made again -----------------------------------------------------


class AttemptFailedError(CrowdError):
    """An attempt ended without an answer. ``kind`` is a `FailureKind`'s value."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind
        self.words = words


class SecretUnreadableError(CrowdError):
    """A secret cannot be used. ``reference`` says which one, ``why`` nothing of its content."""

    def __init__(self, reference: str, why: str) -> None:
        super().__init__(f"the secret {reference} cannot be used: {why}")
        self.reference = reference
        self.why = why


# --- A change: an operator asked for what cannot be -----------------------------------------------


class ChangeRefusedError(CrowdError):
    """Nothing can be changed so, as things are; nothing was asked of the log."""


class UnknownMemberError(ChangeRefusedError):
    """There is no such member."""


class UnknownConsumerError(ChangeRefusedError):
    """There is no such consumer."""


class UnknownLetterError(ChangeRefusedError):
    """There is no such dead letter; or not any more."""


class UnknownOrderError(ChangeRefusedError):
    """This node has no such order; or not any more."""


class BacklogLeftError(ChangeRefusedError):
    """A consumer that is to go has messages left. ``backlog`` says how many."""

    def __init__(self, reason: str, *, backlog: int) -> None:
        super().__init__(reason)
        self.backlog = backlog


# --- The node itself: an operator must act ----------------------------------------------------


class FatalError(CrowdError):
    """The node must not go on. It says why, and exits."""


class NeedsNewerCrowdError(FatalError):
    """The log holds a kind or a format version that this version does not know."""


class StorageFailedError(FatalError):
    """A write, fsync or read failed; its effects are unknown, so the process ends (I8)."""


class DamagedError(FatalError):
    """Stored bytes fail their checksum or their order. ``place`` says where (file, offset, index)."""

    def __init__(self, what: str, *, place: str) -> None:
        super().__init__(f"{what} at {place}")
        self.what = what
        self.place = place


class DamagedEntryError(DamagedError):
    """One stored entry fails its checksum. ``index`` says which: a peer that has it can mend it."""

    def __init__(self, what: str, *, place: str, index: int) -> None:
        super().__init__(what, place=place)
        self.index = index


class DirectoryError(FatalError):
    """The directory belongs to another node or cluster, or another process uses it."""


class NoSpaceError(CrowdError):
    """A write found no space and was undone; what was durable before still is."""


class UsageError(CrowdError):
    """A command's arguments do not fit together; the words say what is expected."""


class ConfigurationError(CrowdError):
    """A configuration's problems, all of them, one line each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
