"""The token: what an operator must have to change anything over the admin port.

Decides where it is and what it is: 32 random bytes in hexadecimal, in the file ``token`` of the
node's directory, which its owner alone can read. Made at the first start and kept; whoever
wants another one removes the file and starts the node again.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Final

from crowd.errors import DirectoryError

FILE_NAME: Final = "token"
TOKEN_BYTES: Final = 32
"""As many as a key: nobody guesses it, however often the port may be asked."""

_TOKEN: Final = re.compile(rb"[0-9a-f]{%d}" % (2 * TOKEN_BYTES))


def read_token(path: Path) -> str:
    """Return the token in a file; raise DirectoryError if there is none."""
    try:
        with path.open("rb") as file:
            found = file.read(4 * TOKEN_BYTES).strip()
    except OSError as error:
        raise DirectoryError(
            f"{path}: found {error.strerror}; expected the token of a node"
        ) from error
    if _TOKEN.fullmatch(found) is None:
        raise DirectoryError(
            f"{path}: found {len(found)} bytes that are no token; expected "
            f"{2 * TOKEN_BYTES} hexadecimal digits (remove it, and the next start makes one)"
        )
    return found.decode("ascii")


def open_token(directory: str) -> str:
    """Return the token of a node whose directory this is, made if there is none.

    The directory's lock must be held. Raises DirectoryError if it cannot be read or made.
    """
    path = Path(directory) / FILE_NAME
    if path.exists():
        return read_token(path)
    token = secrets.token_hex(TOKEN_BYTES)
    part = path.with_name(f"{FILE_NAME}.new")  # the next start removes what a crash leaves of it
    try:
        # It is its owner's alone from its first byte on, so the mode is set at creation.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token + "\n")
            file.flush()
            # The bytes before the name: a file with this name is always whole.
            os.fsync(file.fileno())
        part.replace(path)
        _sync(directory)  # an operator may copy it from now on
    except OSError as error:
        raise DirectoryError(f"{path}: could not be made: {error.strerror}") from error
    return token


def _sync(directory: str) -> None:
    """Make the directory's names durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
