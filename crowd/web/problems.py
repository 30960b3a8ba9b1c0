"""Every error that a producer or an operator can meet, as an answer: RFC 9457 problem details. Pure.

One table maps errors to answers; ``docs/reference/http-api.md`` has a heading for each
`type`. The types are relative references, and names to hold on to: scripts branch on them.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from crowd.errors import (
    BacklogFullError,
    CrowdError,
    DrainingError,
    KeyReusedError,
    NoQuorumError,
    OutcomeUnknownError,
    RefusedError,
)
from crowd.web.reply import Reply, make_reply

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from crowd.web.fields import Field

CONTENT_TYPE: Final = (b"Content-Type", b"application/problem+json")


class Problem(msgspec.Struct, frozen=True):
    """A kind of error: its status, the last part of its ``type``, and its title."""

    status: int
    name: str
    title: str


BAD_REQUEST: Final = Problem(400, "bad-request", "This is not a valid HTTP/1.1 request")
BAD_TARGET: Final = Problem(400, "bad-target", "This request target cannot be delivered")
BAD_KEY: Final = Problem(400, "bad-idempotency-key", "This Idempotency-Key cannot be read")
BAD_CHANGE: Final = Problem(400, "bad-change", "This is no change that can be asked for")
BAD_QUERY: Final = Problem(400, "bad-query", "This query cannot be answered")
NO_TOKEN: Final = Problem(401, "no-token", "Changes need the node's token")
NO_CREDENTIAL: Final = Problem(401, "no-credential", "This route asks who posts")
UNKNOWN_CREDENTIAL: Final = Problem(401, "unknown-credential", "This route does not know who posts")
WRONG_SIGNATURE: Final = Problem(403, "wrong-signature", "This route asks for a signature")
WRONG_CERTIFICATE: Final = Problem(403, "wrong-certificate", "This route asks for a certificate")
FOREIGN_PAGE: Final = Problem(403, "foreign-page", "Pages from there may not post here")
FOREIGN_ORIGIN: Final = Problem(403, "foreign-origin", "A page from elsewhere changes nothing here")
FOREIGN_HOST: Final = Problem(421, "foreign-host", "Ask for the admin pages by address")
UNKNOWN_HOST: Final = Problem(421, "unknown-host", "This node does not answer to this name")
NOT_FOUND: Final = Problem(404, "unknown-route", "No route takes this path")
UNKNOWN_MEMBER: Final = Problem(404, "unknown-member", "There is no such member")
UNKNOWN_CONSUMER: Final = Problem(404, "unknown-consumer", "There is no such consumer")
UNKNOWN_LETTER: Final = Problem(404, "unknown-letter", "There is no such dead letter")
UNKNOWN_MESSAGE: Final = Problem(404, "unknown-message", "There is no such message here")
UNKNOWN_ORDER: Final = Problem(404, "unknown-order", "There is no such order")
NOT_ALLOWED: Final = Problem(405, "method-not-allowed", "The route does not take this method")
MESSAGE_GONE: Final = Problem(410, "message-gone", "The message was settled, and is forgotten")
TOO_SLOW: Final = Problem(408, "too-slow", "The request did not arrive in time")
CHANGE_REFUSED: Final = Problem(409, "change-refused", "This cannot be changed so now")
BACKLOG_LEFT: Final = Problem(409, "backlog-left", "The consumer has messages left")
BODY_TOO_LARGE: Final = Problem(413, "body-too-large", "The body is over the limit")
TARGET_TOO_LONG: Final = Problem(414, "target-too-long", "The request target is over the limit")
MALFORMED_BODY: Final = Problem(400, "malformed-body", "The body is not what it should be")
UNSUPPORTED_TYPE: Final = Problem(415, "unsupported-type", "The route does not take this type")
UNSUPPORTED_CODING: Final = Problem(415, "unsupported-coding", "The body cannot be looked into")
SCHEMA_MISMATCH: Final = Problem(422, "schema-mismatch", "The body does not fit the route's schema")
NOT_JSON: Final = Problem(415, "not-json", "The body must be application/json")
EXPECTATION: Final = Problem(417, "expectation-failed", "Only 100-continue can be expected")
TOO_MANY: Final = Problem(429, "too-many-requests", "This producer posts too often")
KEY_REUSED: Final = Problem(
    422, "idempotency-key-reused", "This Idempotency-Key came with another request before"
)
HEAD_TOO_LARGE: Final = Problem(431, "head-too-large", "The header fields are over the limit")
INTERNAL: Final = Problem(500, "internal-error", "crowd failed; its log says how")
CODING: Final = Problem(501, "unknown-transfer-coding", "Only chunked can be decoded")
VERSION: Final = Problem(505, "version-not-supported", "Only HTTP/1.0 and HTTP/1.1 are spoken")
NOT_STORED: Final = Problem(503, "not-stored", "The message was not stored")
NO_QUORUM: Final = Problem(503, "no-quorum", "Not stored: no majority of the nodes is reachable")
BACKLOG_FULL: Final = Problem(503, "backlog-full", "Not stored: the backlog is full")
DRAINING: Final = Problem(503, "draining", "Not stored: this node is stopping")
TOO_MANY_READS: Final = Problem(503, "too-many-reads", "Too many reads are under way")
UPSTREAM_UNREACHABLE: Final = Problem(502, "upstream-unreachable", "The upstream is not reachable")
UPSTREAM_BROKEN: Final = Problem(502, "upstream-broken", "The upstream ended without an answer")
UPSTREAM_MALFORMED: Final = Problem(502, "upstream-malformed", "The upstream's answer is no HTTP")
UPSTREAM_HEAD_TOO_LARGE: Final = Problem(
    502, "upstream-head-too-large", "The head of the upstream's answer is over the limit"
)
UPSTREAM_TOO_SLOW: Final = Problem(504, "upstream-too-slow", "The upstream did not answer in time")
LOOP: Final = Problem(508, "loop", "This read came through this node before")
UNCHECKED: Final = Problem(503, "unchecked", "Not stored: who posts cannot be checked here now")
NOT_HERE: Final = Problem(503, "not-here", "This node does not have the message")
OUTCOME_UNKNOWN: Final = Problem(503, "outcome-unknown", "The message may be stored, now or soon")

PROBLEMS: Final = (
    BAD_REQUEST, BAD_TARGET, FOREIGN_HOST, UNKNOWN_HOST, NOT_FOUND, NOT_ALLOWED, TOO_SLOW, BODY_TOO_LARGE, TARGET_TOO_LONG,
    EXPECTATION, HEAD_TOO_LARGE, INTERNAL, CODING, VERSION, NOT_STORED, NO_QUORUM, BACKLOG_FULL,
    DRAINING, OUTCOME_UNKNOWN, BAD_CHANGE, NO_TOKEN, FOREIGN_ORIGIN, UNKNOWN_MEMBER, CHANGE_REFUSED,
    NOT_JSON, BAD_QUERY, UNKNOWN_CONSUMER, UNKNOWN_LETTER, UNKNOWN_ORDER, BACKLOG_LEFT, NOT_HERE,
    TOO_MANY_READS, UPSTREAM_UNREACHABLE, UPSTREAM_BROKEN, UPSTREAM_MALFORMED,
    UPSTREAM_HEAD_TOO_LARGE, UPSTREAM_TOO_SLOW, LOOP,
    NO_CREDENTIAL, UNKNOWN_CREDENTIAL, FOREIGN_PAGE, MALFORMED_BODY,
    UNSUPPORTED_TYPE, UNSUPPORTED_CODING, SCHEMA_MISMATCH, TOO_MANY, WRONG_SIGNATURE, WRONG_CERTIFICATE,
    UNCHECKED,
    BAD_KEY, KEY_REUSED, UNKNOWN_MESSAGE, MESSAGE_GONE,
)  # fmt: skip

# The first class that fits decides, so the special ones stand before the general ones.
_OF_ERRORS: Final[tuple[tuple[type[CrowdError], Problem], ...]] = (
    (NoQuorumError, NO_QUORUM),
    (BacklogFullError, BACKLOG_FULL),
    (DrainingError, DRAINING),
    (RefusedError, NOT_STORED),
    (OutcomeUnknownError, OUTCOME_UNKNOWN),
)


def problem_reply(
    problem: Problem,
    detail: str = "",
    *,
    retry_after_s: int | None = None,
    allow: tuple[str, ...] | None = None,
    facts: tuple[tuple[str, int | str], ...] = (),
    headers: tuple[Field, ...] = (),
) -> Reply:
    """Return the answer for `problem`; `detail` says what was found in this request.

    `facts` are members of the answer beside those of RFC 9457, for programs; `headers` are
    further fields of it. An answer without facts is the same one each time.
    """
    # What has facts is about one request: it would only be kept for nobody.
    make = _made if facts else _made_once
    return make(problem, detail, retry_after_s, allow, facts, headers)


def _made(
    problem: Problem,
    detail: str,
    retry_after_s: int | None,
    allow: tuple[str, ...] | None,
    facts: tuple[tuple[str, int | str], ...],
    headers: tuple[Field, ...],
) -> Reply:
    document: dict[str, str | int] = {
        "type": f"/problems/{problem.name}",
        "title": problem.title,
        "status": problem.status,
    }
    if detail:
        document["detail"] = detail
    document |= dict(facts)
    fields: list[Field] = [CONTENT_TYPE, *headers]
    if problem is NO_TOKEN:
        fields.append((b"WWW-Authenticate", b'Bearer realm="crowd"'))
    if retry_after_s is not None:
        fields.append((b"Retry-After", b"%d" % retry_after_s))
    if allow is not None:
        fields.append((b"Allow", ", ".join(allow).encode("ascii")))
    return make_reply(problem.status, tuple(fields), json.dumps(document).encode("ascii"))


# In an outage all producers get the same answer: make it once.
_made_once: Final = lru_cache(maxsize=256)(_made)


def in_flight_full() -> Reply:
    """Return the answer for a request that never got room for its body."""
    return problem_reply(
        NOT_STORED, "too many bodies of unanswered requests are held", retry_after_s=1
    )


def reply_to_error(error: BaseException) -> Reply:
    """Return the answer for an error of crowd's own or of the router's.

    Anything else is a defect of crowd's: 500, without a word about what it was; whoever calls
    this logs it.
    """
    if isinstance(error, RefusedError | OutcomeUnknownError):
        for kind, problem in _OF_ERRORS:
            if isinstance(error, kind):
                return problem_reply(problem, error.reason, retry_after_s=error.retry_after_s)
    if isinstance(error, KeyReusedError):
        return problem_reply(KEY_REUSED, str(error))
    if isinstance(error, MethodNotAllowed):
        return problem_reply(NOT_ALLOWED, allow=tuple(sorted(error.valid_methods or ())))
    if isinstance(error, NotFound):
        return problem_reply(NOT_FOUND)
    return problem_reply(INTERNAL)


def failure_value(failure: Failure) -> BaseException:
    """Return the exception that a Failure carries."""
    error = failure.value
    assert error is not None, "a Failure of nothing"
    return error


def is_expected(error: BaseException) -> bool:
    """Tell whether an error has an answer of its own, so that it needs no log line."""
    return isinstance(error, RefusedError | OutcomeUnknownError | KeyReusedError | HTTPException)
