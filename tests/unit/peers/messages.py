"""What the fuzz tests of peers draw from: every message, every hello, and what is almost one."""

from __future__ import annotations

from hypothesis import strategies as st

from crowd.raft.wire import (
    NUMBER_MAX,
    PROTOCOL,
    WITHIN_MS_MAX,
    AppendEntries,
    Await,
    AwaitEnded,
    Fetch,
    Fetched,
    FetchLetter,
    Hello,
    LetterFetched,
    NextIndex,
    Offer,
    PreVote,
    PreVoteAnswer,
    RequestVote,
    ResponseVote,
    SnapshotPiece,
    SnapshotWanted,
    TimeoutNow,
)

numbers = st.integers(0, NUMBER_MAX)
digests = st.binary(min_size=32, max_size=32)


@st.composite
def append_entries(draw):
    prev_index = draw(st.integers(0, NUMBER_MAX - 20))
    terms = sorted(draw(st.lists(numbers, max_size=8)))
    term = draw(st.integers(terms[-1] if terms else 0, NUMBER_MAX))
    entries = tuple(
        (draw(st.binary(max_size=40)), prev_index + place, entry_term)
        for place, entry_term in enumerate(terms, 1)
    )
    return AppendEntries(term, draw(numbers), prev_index, draw(numbers), draw(numbers), entries)


@st.composite
def snapshot_pieces(draw):
    data = draw(st.binary(min_size=1, max_size=60))
    total = draw(st.integers(len(data), NUMBER_MAX))
    offset = draw(st.integers(0, total - len(data)))
    return SnapshotPiece(
        draw(numbers), draw(numbers), draw(numbers), draw(digests), total, offset, data
    )


PEER_MESSAGES = st.one_of(
    append_entries(),
    st.builds(
        NextIndex, numbers, numbers, st.booleans(), st.booleans(), numbers, numbers, st.booleans()
    ),
    st.builds(RequestVote, numbers, numbers, numbers, numbers),
    st.builds(ResponseVote, numbers),
    st.builds(TimeoutNow, numbers),
    st.builds(PreVote, numbers, numbers, numbers, numbers),
    st.builds(PreVoteAnswer, numbers, st.booleans(), numbers, numbers),
    st.builds(Offer, st.binary(max_size=100)),
    snapshot_pieces(),
    st.builds(SnapshotWanted, numbers, digests, numbers),
    st.builds(Fetch, numbers),
    st.builds(Fetched, st.binary(max_size=100), numbers, numbers),
    st.builds(FetchLetter, numbers, digests),
    st.builds(LetterFetched, numbers, st.binary(max_size=100)),
    st.builds(Await, numbers, numbers, st.integers(0, WITHIN_MS_MAX)),
    st.builds(
        AwaitEnded,
        numbers,
        numbers,
        st.sampled_from(["delivered", "dead", "settled", "unknown"]),
        st.integers(0, 999),
        st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=4).map(tuple),
        st.binary(max_size=100),
    ),
)
"""Every kind of message, with any fields that it may have."""
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=63)
HELLOS = st.builds(
    Hello,
    st.just(PROTOCOL),
    numbers,
    names,
    names,
    st.binary(min_size=16, max_size=16),
    st.lists(names, min_size=1, max_size=32).map(tuple),
    numbers,
    st.binary(max_size=200),
    st.booleans(),
)
"""Every hello that decodes; whether it fits is another question."""

PLAIN = st.recursive(
    st.one_of(
        st.integers(-1, 40),
        st.integers(-(2**64), 2**64 - 1),
        st.booleans(),
        st.none(),
        st.floats(allow_nan=False),
        st.binary(max_size=20),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=7), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=20,
)
"""Values of every type that crowd's CBOR has, nested."""

EXAMPLES = (
    AppendEntries(5, 8, 9, 4, 77, ((b"first", 10, 4), (b"second", 11, 5))),
    AppendEntries(5, 8, 9, 4, 77, ()),
    NextIndex(5, 12, True, False, 77, 3, True),
    RequestVote(6, 11, 5, 3),
    ResponseVote(6),
    TimeoutNow(5),
    PreVote(6, 11, 5, 3),
    PreVoteAnswer(6, True, 11, 5),
    Offer(b"a command"),
    SnapshotPiece(5, 11, 5, bytes(range(32)), 1000, 990, b"ten bytes."),
    SnapshotWanted(5, bytes(range(32)), 1000),
    Fetch(10),
    Fetched(b"first", 10, 4),
    FetchLetter(7, bytes(range(32))),
    LetterFetched(7, b"a message"),
    Await(9, 1, 30_000),
    AwaitEnded(9, 1, "delivered", 201, ((b"X-A", b"b"), (b"X-A", b"")), b"made"),
    AwaitEnded(9, 1, "unknown", 0, (), b""),
)
"""One or two of each kind."""


@st.composite
def mutated(draw, encodings):
    """A drawn encoding with bytes changed, left out, doubled or put in."""
    data = bytearray(draw(encodings))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        data[start:end] = draw(
            st.one_of(st.binary(max_size=6), st.just(bytes(data[start:end] * 2)))
        )
    return bytes(data)
