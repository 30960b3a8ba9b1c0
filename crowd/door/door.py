"""One route's door: what a request must show, in which order it is looked at. Pure.

Decides who is let in and what travels on. Leaves each kind of proof to a module of its own,
and the answers to ``crowd/web``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from crowd.door.asked import Admitted, Asked, Known, Refused
from crowd.door.keys import Keys

if TYPE_CHECKING:
    from crowd.door.asked import Verdict
    from crowd.policy import Policy

EARLY_BYTES: Final = 16 * 1024
"""A body above this is not read before its sender is known; smaller ones come with their head,
and the connection stays open when they are refused."""


class Proofs(Protocol):
    """One kind of proof of who posts."""

    def known(self, asked: Asked) -> Known | Refused:
        """Return who a request is from, or why that is not known."""


class Door:
    """Lets requests of one route pass, or says why not."""

    def __init__(self, policy: Policy) -> None:
        self._any = policy.require == "any"
        self._keys = Keys(policy.keys, policy.key_from) if policy.keys else None
        self._proofs: list[Proofs] = [each for each in (self._keys,) if each is not None]

    def admit(self, asked: Asked) -> Verdict:
        """Return the verdict on a whole request."""
        known = self._known(asked)
        if isinstance(known, Refused):
            return known
        return Admitted(known.name, known.headers)

    def at_head(self, asked: Asked, body_bytes: int, *, waits: bool) -> Refused | None:
        """Return why a request cannot pass whatever its body is, or None.

        `body_bytes` is how long the body is or may be; `waits` says that it is only sent if
        it is asked for. ``asked.body`` is not looked at.
        """
        if (waits or body_bytes > EARLY_BYTES) and self._keys is not None:
            alone = len(self._proofs) == 1 or not self._any
            known = self._keys.known(asked)
            if alone and isinstance(known, Refused):
                return known
        return None

    def _known(self, asked: Asked) -> Known | Refused:
        """Return who posts: by the first proof that has a name for it."""
        found: Known | Refused | None = None
        for each in self._proofs:
            known = each.known(asked)
            if self._any:
                if isinstance(known, Known):
                    return known
                found = found or known
            elif isinstance(known, Refused):
                return known
            else:
                found = found or known
        return found or Known("", asked.headers)
