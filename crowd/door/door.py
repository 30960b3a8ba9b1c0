"""One route's door: what a request must show, in which order it is looked at. Pure.

Decides who is let in and what travels on. Leaves each kind of proof to a module of its own,
and the answers to ``crowd/web``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from crowd.door.asked import Admitted, Asked, Known, Reason, Refused
from crowd.door.certificates import Certificates
from crowd.door.content import Content
from crowd.door.elements import Many
from crowd.door.event import event_names
from crowd.door.keys import Keys
from crowd.door.origins import Origins
from crowd.door.rate import Rate, neighbourhood
from crowd.door.signatures import Signatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.door.asked import Field, Verdict
    from crowd.door.elements import Elements
    from crowd.door.signatures import Secrets
    from crowd.policy import Policy

EARLY_BYTES: Final = 16 * 1024
"""A body above this is not read before its sender is known; smaller ones come with their head,
and the connection stays open when they are refused."""


_NO_PAGES: Final = Refused(Reason.FOREIGN_PAGE, "pages may not post to this route")


_UNASKABLE: Final = Refused(
    Reason.SIGNATURE,
    "this route knows who posts by signatures alone, and a question has none; ask where the message "
    "is delivered",
)


class Proofs(Protocol):
    """One kind of proof of who posts."""

    def known(self, asked: Asked) -> Known | Refused:
        """Return who a request is from, or why that is not known."""


class Door:
    """Lets requests of one route pass, or says why not.

    A request whose body has at most ``unhurried_bytes`` need not be looked at before its body is
    there. Raises ValueError for a policy that cannot be.
    """

    def __init__(self, policy: Policy, secrets: Secrets | None = None) -> None:
        """Make the door of a policy; `secrets` are those of its signatures, if it asks for any."""
        self._any = policy.require == "any"
        self._keys = Keys(policy.keys, policy.key_from) if policy.keys else None
        self._origins = Origins(policy.cors, policy.methods) if policy.cors else None
        self._content = Content(policy.content) if policy.content else None
        self._rate = Rate(policy.rate) if policy.rate else None
        self._many = Many(policy.decoded_bytes_max) if policy.many else None
        self._by_event = policy.idempotency == "event"
        self._decoded_bytes_max = policy.decoded_bytes_max
        own_bytes_max = policy.content.body_bytes_max if policy.content else EARLY_BYTES
        self.unhurried_bytes = min(EARLY_BYTES, own_bytes_max)
        signatures = None
        if policy.signature is not None:
            assert secrets is not None, "signatures are verified with secrets"
            signatures = Signatures(policy.signature, secrets)
        certificates = Certificates(policy.certificates) if policy.certificates else None
        proofs = (self._keys, certificates, signatures)
        self._proofs: list[Proofs] = [each for each in proofs if each is not None]
        # What a signature is of is a body, and who asks has none.
        self._askers = [each for each in self._proofs if each is not signatures]
        others = (self._origins, self._content, self._rate, self._many, certificates, signatures)
        looks_on = self._by_event or any(each is not None for each in others)
        self._only_keys = None if looks_on else self._keys

    def admit(self, asked: Asked) -> Verdict:
        """Return the verdict on a whole request."""
        early = self._counted(asked)
        if early is not None:
            return early
        answer = self._page(asked)
        if isinstance(answer, Refused):
            return answer
        known = self._known(asked, self._proofs)
        if isinstance(known, Refused):
            return known
        posted = self._posted(asked, known.name)
        if isinstance(posted, Refused):
            return posted
        events = event_names(asked, posted, self._decoded_bytes_max) if self._by_event else ()
        if isinstance(events, Refused):
            return events
        return Admitted(known.name, known.headers, answer, posted, events)

    def admit_known(self, headers: list[Field], found: dict[object, Any]) -> Admitted | None:
        """Return what `admit` does, if that follows from what was found of a connection's last request.

        `headers` and `found` are as in `Asked`. None: that has to be asked.
        """
        if self._only_keys is None:
            return None
        known = self._only_keys.remembered(headers, found)
        return None if known is None else Admitted(known.name, known.headers)

    def _posted(self, asked: Asked, name: str) -> Elements | Refused | None:
        """Return the messages that a known producer posts, None for one, or why it is refused."""
        early = self._counted_by_name(asked, name)
        if early is not None:
            return early
        content = self._content
        if content is not None:
            refused = content.head(asked.headers, len(asked.body)) or content.takes_type(asked)
            if refused is not None:
                return refused
        elements = None if self._many is None else self._many.elements(asked)
        if content is None or isinstance(elements, Refused):
            return elements
        refused = content.body(asked) if elements is None else content.elements(elements.bodies)
        return elements if refused is None else refused

    def admit_asker(self, asked: Asked) -> Verdict:
        """Return the verdict on a request that asks for what was posted here.

        Who may post may ask, and is counted alike; but by signatures alone nobody is known.
        """
        early = self._counted(asked)
        if early is not None:
            return early
        answer = self._page(asked)
        if isinstance(answer, Refused):
            return answer
        if self._proofs and not self._askers:
            return _UNASKABLE
        known = self._known(asked, self._askers)
        if isinstance(known, Refused):
            return known
        early = self._counted_by_name(asked, known.name)
        return Admitted(known.name, known.headers, answer) if early is None else early

    @property
    def asks_who(self) -> bool:
        """Whether a request has to show who it is from."""
        return bool(self._proofs)

    @property
    def answers_browsers(self) -> bool:
        """Whether a browser that asks first is answered."""
        return self._origins is not None

    def preflight(self, headers: Sequence[Field]) -> tuple[Field, ...] | Refused:
        """Return the fields of the answer to a browser that asks first, or why it is no."""
        return _NO_PAGES if self._origins is None else self._origins.preflight(headers)

    def shown(self, headers: Sequence[Field]) -> tuple[Field, ...]:
        """Return the fields with which a browser shows an error's answer to its page."""
        return () if self._origins is None else self._origins.shown(headers)

    def at_head(self, asked: Asked, body_bytes: int | None, *, waits: bool) -> Refused | None:
        """Return why a request cannot pass whatever its body is, or None.

        `body_bytes` is how long the body is, if that is told; `waits` says that it is only sent
        if it is asked for. ``asked.body`` is not looked at.
        """
        content = self._content
        if waits or body_bytes is None or body_bytes > EARLY_BYTES:
            refused = self._early(asked, body_bytes)
            if refused is not None:
                return self._counted(asked) or refused
        return None if content is None else content.head(asked.headers, body_bytes or 0)

    def _early(self, asked: Asked, body_bytes: int | None) -> Refused | None:
        page = self._page(asked)
        if isinstance(page, Refused):
            return page
        if self._keys is not None and (not self._any or len(self._proofs) == 1):
            known = self._keys.known(asked)
            if isinstance(known, Refused):
                return known
        # A DELETE needs no type if its body turns out to be empty.
        if self._content is None or (asked.method == b"DELETE" and not body_bytes):
            return None
        return self._content.type(asked)

    def _counted(self, asked: Asked) -> Refused | None:
        """Count a request by its address, which needs no proof: so guesses count, too."""
        if self._rate is None or not self._rate.by_address:
            return None
        return self._rate.take(neighbourhood(asked.client), asked.now_s)

    def _counted_by_name(self, asked: Asked, name: str) -> Refused | None:
        """Count a request by who posts, once that is known."""
        if self._rate is None or self._rate.by_address:
            return None
        return self._rate.take(name, asked.now_s)

    def _page(self, asked: Asked) -> tuple[Field, ...] | Refused:
        return () if self._origins is None else self._origins.look(asked.headers)

    def _known(self, asked: Asked, proofs: Sequence[Proofs]) -> Known | Refused:
        """Return who posts, by the first proof that has a name for it."""
        if self._any:
            return self._known_by_any(asked, proofs)
        found: Known | None = None
        for each in proofs:
            known = each.known(asked)
            if isinstance(known, Refused):
                return known
            # Keys come first, and what they leave of the headers is what travels on.
            found = found or known
        return found or Known("", asked.headers)

    def _known_by_any(self, asked: Asked, proofs: Sequence[Proofs]) -> Known | Refused:
        refusals: list[Refused] = []
        for each in proofs:
            known = each.known(asked)
            if isinstance(known, Known):
                if self._keys is None or each is self._keys:
                    return known
                return Known(known.name, self._keys.without_keys(known.headers))
            refusals.append(known)
        # What could not be checked may be good in a moment; else what is wrong with what was shown
        # says more than what was not shown.
        refusals.sort(key=lambda each: (each.reason is not Reason.UNCHECKED, each.absent))
        return refusals[0] if refusals else Known("", asked.headers)
