"""What values in the log have in common: their shape, and the bounds of their fields.

Decides how a value is laid out, and how large a number or a text in it may be. Leaves which
values there are to ``definition`` and ``command``.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

INTEGER_MAX: Final = 2**63 - 1
"""No integer in a command is larger, so each fits 64 bits, signed or not, everywhere."""

Counted = Annotated[int, Meta(ge=1, le=INTEGER_MAX)]
Amount = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]
Text = Annotated[str, Meta(min_length=1, max_length=4_096)]
Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]


class Value(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """The shape of every value: in CBOR an array of the fields in their order.

    Each repeats ``frozen=True``, as type checkers do not inherit it.
    """
