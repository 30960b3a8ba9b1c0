"""Where the secrets of signatures are read: files and the environment.

Decides when they are read again. A definition or a policy holds references only, ``file:/path``
and ``env:NAME``; each node reads what they refer to by itself. Leaves what a secret may be to
``forms.signing``, for what is sent, and to ``crowd/door/signatures.py``, for what comes in; their
invariant holds here too.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from crowd.delivery.forms.signing import Secret, parse_key
from crowd.errors import SecretUnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

K = TypeVar("K")

READ_EVERY_S: Final = 60.0
"""A secret that was changed in its file signs a minute later, on every node, with no one told."""

READ_AGAIN_S: Final = 1.0
"""How soon one that could not be read is looked for again: as soon as a first retry comes."""

FILE_BYTES_MAX: Final = 4096
"""Many times a secret's length: a larger file is another file."""


class Keyring(Generic[K]):
    """The keys of one consumer, or of one route, as fresh as `READ_EVERY_S`.

    It reads in the reactor's thread: a few small files once a minute, which docs/ asks to be
    on a local disk.
    """

    def __init__(
        self,
        references: Sequence[str],
        seconds: Callable[[], float],
        variable: Callable[[str], str | None] = os.getenv,
        parse: Callable[[Secret], K] = parse_key,  # type: ignore[assignment]  # K is a Key then
        tell: Callable[[SecretUnreadableError], None] = lambda _: None,
    ) -> None:
        """Make a keyring that has read nothing yet. `seconds` is a monotonic clock.

        `parse` makes a key of a secret, or raises ValueError, which says nothing of its content.
        `tell` hears each time that one could not be read: once in `READ_AGAIN_S` at most.

        `variable` returns one of the environment. The environment itself is handed nowhere:
        where it is shown, as a traceback may, every secret in it is.
        """
        self._references = tuple(references)
        self._seconds = seconds
        self._variable = variable
        self._parse = parse
        self._tell = tell
        self._keys: tuple[K, ...] = ()
        self._trouble: SecretUnreadableError | None = None
        self._read_at_s = float("-inf")

    def current(self) -> tuple[K, ...]:
        """Return a key for each reference, in their order; none where there are none.

        Raises SecretUnreadableError if one cannot be read now. Older keys are then not used:
        a secret that was taken away signs nothing more.
        """
        if not self._references:
            return ()
        now_s = self._seconds()
        if now_s >= self._read_at_s:
            self._read(now_s)
        if self._trouble is not None:
            raise self._trouble.with_traceback(None)
        return self._keys

    def _read(self, now_s: float) -> None:
        try:
            self._keys = tuple(
                [read_key(each, self._variable, self._parse) for each in self._references]
            )
        except SecretUnreadableError as trouble:
            self._keys, self._trouble = (), trouble
            self._read_at_s = now_s + READ_AGAIN_S
            self._tell(trouble)
        else:
            self._trouble = None
            self._read_at_s = now_s + READ_EVERY_S


def read_key(
    reference: str, variable: Callable[[str], str | None], parse: Callable[[Secret], K]
) -> K:
    """Return the key that `reference` leads to; raise SecretUnreadableError if there is none."""
    try:
        return parse(_read_secret(reference, variable))
    except OSError as error:
        raise SecretUnreadableError(reference, error.strerror or "it cannot be read") from None
    except ValueError as error:
        raise SecretUnreadableError(reference, str(error)) from None


def _read_secret(reference: str, variable: Callable[[str], str | None]) -> Secret:
    kind, _, name = reference.partition(":")
    if kind == "env":
        if variable(name) is None:
            raise ValueError("there is no such variable")
        return Secret(os.fsencode(variable(name) or ""))
    if kind == "file":
        return _read_file(name)
    raise ValueError("expected file:/path or env:NAME")


def _read_file(path: str) -> Secret:
    # Without waiting, should it be a pipe that nobody writes to.
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise ValueError("expected a file")
        secret = Secret(os.read(opened, FILE_BYTES_MAX + 1))
    finally:
        os.close(opened)
    if len(secret.reveal()) > FILE_BYTES_MAX:
        raise ValueError(f"expected at most {FILE_BYTES_MAX} bytes")
    return secret
