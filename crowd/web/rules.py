"""Which route takes a request: the Klein app's own rules, asked with the path as it may be read.

Decides the names of a route's rules, and what a path matches. Leaves to ``paths`` in how many
ways a path may be read, and to the router what becomes of a match.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from werkzeug.exceptions import HTTPException

from crowd.web.paths import BadPathError, readings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from werkzeug.routing import Map

ITSELF: Final = " itself"
"""Ends the endpoint of a route's second rule, for the top of what it takes."""


def rules_of(path: str, endpoint: str) -> Sequence[tuple[str, str]]:
    """Return the rules under which a route stands in the Klein app, each with its endpoint."""
    front, converter, _ = path.rpartition("<path:")
    if converter and front.endswith("/") and path.endswith(">"):
        # "all below" includes the top itself, which Werkzeug's converter leaves out.
        return ((path, endpoint), (front, endpoint + ITSELF))
    return ((path, endpoint),)


def match(url_map: Map, method: bytes, path: bytes) -> tuple[str, dict[str, Any]]:
    """Return the endpoint of a request and its path's variables; raises what Werkzeug does.

    Only the match sees the decoded path. One that is not UTF-8 is delivered as it came, if a
    route takes it (I9); Klein's own resource would refuse it. Raises BadPathError for a path that
    a consumer might take for one of another route, or of none.
    """
    text, *others = readings(path)
    endpoint, arguments = _rule(url_map, method, text)
    for other in others:
        try:
            route = _rule(url_map, method, other)[0]
        except HTTPException:
            route = ""
        if route.removesuffix(ITSELF) != endpoint.removesuffix(ITSELF):
            raise BadPathError("a path that is another route's, or nobody's, once it is resolved")
    return endpoint, arguments


def _rule(url_map: Map, method: bytes, path: str) -> tuple[str, dict[str, Any]]:
    adapter = url_map.bind("", path_info=path)
    rule, arguments = adapter.match(method=method.decode("ascii"), return_rule=True)
    return rule.endpoint, dict(arguments)
