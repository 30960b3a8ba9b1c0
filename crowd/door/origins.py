"""Which pages may post from a browser: CORS, as the Fetch standard has it (section 3.2). Pure.

Decides whether an Origin may pass, and the fields that tell a browser so. A request without an
Origin is no page's, and passes: this protects people with browsers, and keeps nobody else out.
An Origin that may not pass is refused even where the browser would have sent the request anyway
and only kept the answer from the page: a message is what counts here, not its answer.

A page that came from this very host is no stranger: browsers send an Origin with its posts, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crowd.door.asked import Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crowd.door.asked import Field
    from crowd.policy import CorsPolicy

ASKED_FIELDS_BYTES_MAX: Final = 4_096
"""Of ``Access-Control-Request-Headers`` that is repeated; browsers ask for a handful of names."""

_ORIGIN: Final = b"origin"
_VARY_ORIGIN: Final = (b"Vary", b"Origin")
_VARY_PREFLIGHT: Final = (
    b"Vary",
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
)


class Origins:
    """The pages that may post to one route, which takes `methods`."""

    def __init__(self, policy: CorsPolicy, methods: Sequence[str]) -> None:
        self._all = "*" in policy.origins
        self._exact = frozenset(each.encode("ascii") for each in policy.origins)
        self._under = tuple(
            tuple(each.encode("ascii").split(b"*", 1)) for each in policy.origins if "://*." in each
        )
        self._any_field = "*" in policy.headers
        self._leave = (
            (b"Access-Control-Allow-Methods", ", ".join(sorted(methods)).encode("ascii")),
            (b"Access-Control-Max-Age", b"%d" % policy.max_age_s),
        )
        self._allowed_fields = ", ".join(policy.headers).encode("ascii")
        self._credentials: tuple[Field, ...] = (
            ((b"Access-Control-Allow-Credentials", b"true"),) if policy.credentials else ()
        )
        exposed = ", ".join(policy.expose).encode("ascii")
        self._exposed: tuple[Field, ...] = (
            ((b"Access-Control-Expose-Headers", exposed),) if exposed else ()
        )

    def look(self, headers: Sequence[Field]) -> tuple[Field, ...] | Refused:
        """Return the fields of whatever a request is answered, or why it may not pass."""
        origins = [value for name, value in headers if name.lower() == _ORIGIN]
        if not origins:
            return () if self._all else (_VARY_ORIGIN,)
        if len(origins) == 1:
            if self._may(origins[0]):
                return self._answer(origins[0])
            if _is_own(origins[0], headers):
                return (_VARY_ORIGIN,)
        return Refused(
            Reason.FOREIGN_PAGE,
            "pages from this Origin may not post to this route",
            headers=(_VARY_ORIGIN,),
        )

    def shown(self, headers: Sequence[Field]) -> tuple[Field, ...]:
        """Return the fields with which an error's answer is shown to its page, if it may pass."""
        looked = self.look(headers)
        return () if isinstance(looked, Refused) else looked

    def preflight(self, headers: Sequence[Field]) -> tuple[Field, ...] | Refused:
        """Return the fields of the answer to a browser that asks first, or why it is no."""
        asked = {name.lower(): value for name, value in headers}
        origin = asked.get(_ORIGIN, b"")
        if not self._may(origin):
            return Refused(
                Reason.FOREIGN_PAGE,
                "pages from this Origin may not post to this route",
                headers=(_VARY_PREFLIGHT,),
            )
        allowed = self._allowed_fields
        wanted = asked.get(b"access-control-request-headers", b"")
        if self._any_field and len(wanted) <= ASKED_FIELDS_BYTES_MAX:
            allowed = wanted
        fields = ((b"Access-Control-Allow-Headers", allowed),) if allowed else ()
        own = [each for each in self._answer(origin) if each not in (_VARY_ORIGIN, *self._exposed)]
        return (*own, *self._leave, *fields, _VARY_PREFLIGHT)

    def _answer(self, origin: bytes) -> tuple[Field, ...]:
        if self._all:
            return ((b"Access-Control-Allow-Origin", b"*"), *self._exposed)
        return (
            (b"Access-Control-Allow-Origin", origin),
            *self._credentials,
            *self._exposed,
            _VARY_ORIGIN,
        )

    def _may(self, origin: bytes) -> bool:
        if self._all:
            return bool(origin)
        if origin in self._exact:
            return b"*" not in origin
        return any(
            len(origin) > len(front) + len(end) and origin.startswith(front) and origin.endswith(end)
            and _is_host(origin[len(front) : -len(end)])
            for front, end in self._under
        )  # fmt: skip


def _is_host(text: bytes) -> bool:
    """Tell whether `text` can stand before a domain: labels, without a port or a path."""
    # An underscore is none of RFC 1123's letters; names in use have it, and browsers take it.
    return text.replace(b".", b"").replace(b"-", b"").replace(b"_", b"").isalnum()


def _is_own(origin: bytes, headers: Sequence[Field]) -> bool:
    """Tell whether a page came from the host that it posts to."""
    hosts = [value for name, value in headers if name.lower() == b"host"]
    return len(hosts) == 1 and origin.partition(b"://")[2] == hosts[0].lower() != b""
