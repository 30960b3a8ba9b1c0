"""Frames: cut anywhere, put together again; bounded before anything is kept."""

from __future__ import annotations

import random
import sys
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.errors import MalformedFrameError
from crowd.raft.frames import (
    FRAME_BYTES_MAX,
    KEEP_ALIVE,
    LENGTH_BYTES,
    FrameDecoder,
    encode_frame,
)
from tests.unit.peers.messages import mutated


@given(st.lists(st.binary(max_size=50), max_size=10), st.data())
def test_frames_survive_any_cutting(bodies, data):
    """However the network cuts the stream, the same frames come out."""
    stream = b"".join(map(encode_frame, bodies))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    decoder, got = FrameDecoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += decoder.feed(stream[start:end])
    assert got == bodies
    assert decoder.held_bytes == 0


def test_frames_survive_byte_by_byte():
    """The slowest of networks."""
    bodies = [b"", b"x", b"y" * 300, b""]
    decoder = FrameDecoder()
    stream = b"".join(map(encode_frame, bodies))
    got = [frame for byte in stream for frame in decoder.feed(bytes([byte]))]
    assert got == bodies


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_any_bytes_are_frames_or_refused(pieces):
    """A stranger's bytes give frames or the one error, and hold no more than came."""
    decoder = FrameDecoder(64)
    try:
        for piece in pieces:
            for frame in decoder.feed(piece):
                assert len(frame) <= 64
            assert decoder.held_bytes <= 64 + 4
    except MalformedFrameError:
        with pytest.raises(MalformedFrameError):
            decoder.feed(b"more")


def test_i7_a_frame_that_claims_4_gib_is_refused_at_its_length():
    """I7: the claim is refused when its four bytes are there, before anything is kept."""
    decoder = FrameDecoder()
    with pytest.raises(MalformedFrameError, match="4294967295 bytes; expected at most 20971520"):
        decoder.feed(b"\xff\xff\xff\xff" + b"x" * 1000)
    assert decoder.held_bytes == 0


def test_the_first_frame_has_its_own_bound():
    """Before the hello a peer may say little; after it, and in the same bytes, all."""
    large = encode_frame(b"x" * 1000)
    with pytest.raises(MalformedFrameError):
        FrameDecoder(first_bytes_max=100).feed(large)
    decoder = FrameDecoder(first_bytes_max=100)
    assert decoder.feed(encode_frame(b"hello") + large) == [b"hello", b"x" * 1000]


def test_a_frame_over_the_bound_is_not_sent():
    """The sender finds its own mistake, not the receiver."""
    with pytest.raises(ValueError, match="expected at most"):
        encode_frame(bytes(FRAME_BYTES_MAX + 1))
    assert encode_frame(b"") == KEEP_ALIVE


def test_a_large_frame_in_small_pieces_costs_linear_time():
    """16 MiB in 16 KiB pieces take well under a second: no piece copies what came before."""
    body = bytes(16 * 1024 * 1024)
    stream = encode_frame(body)
    decoder = FrameDecoder()
    began_s = time.process_time()
    got = []
    for start in range(0, len(stream), 16384):
        got += decoder.feed(stream[start : start + 16384])
    assert time.process_time() - began_s < 1.0
    assert got == [body]


@pytest.mark.parametrize("piece", [1, 5000])
def test_i7_pieces_take_no_more_memory_than_they_say(piece):
    """I7: what is held in pieces, of a byte or of more, is held at its size and little else."""
    decoder, size = FrameDecoder(), 1 << 20
    decoder.feed((size + 1).to_bytes(LENGTH_BYTES, "big"))
    tracemalloc.start()
    for start in range(0, size, piece):
        decoder.feed(bytes(min(piece, size - start)))
    taken_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoder.held_bytes == LENGTH_BYTES + size
    assert taken_bytes < 1.2 * size
    assert decoder.feed(b"x") == [bytes(size) + b"x"]


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.binary(max_size=80).map(encode_frame),
            mutated(st.binary(max_size=80).map(encode_frame)),
        ),
        max_size=12,
    )
)
def test_i7_what_is_held_is_less_than_a_frame(pieces):
    """I7: of any bytes, never as much is kept as the largest frame that may come next has."""
    decoder = FrameDecoder(64, first_bytes_max=16)
    bound = 16
    try:
        for piece in pieces:
            for number, frame in enumerate(decoder.feed(piece)):
                assert len(frame) <= (bound if number == 0 else 64)
                bound = 64
            assert decoder.held_bytes < LENGTH_BYTES + bound
    except MalformedFrameError:
        assert decoder.held_bytes == 0


def test_i6_a_hundred_thousand_random_pieces_are_frames_or_refused():
    """I6: a fixed number of random inputs, short lengths among them so that frames come about."""
    chance = random.Random(100_000)
    decoder, cut = FrameDecoder(4096), 0
    for _ in range(100_000):
        piece = chance.randbytes(chance.randrange(12))
        if chance.random() < 0.5:
            piece = bytes([0, 0, chance.randrange(17), chance.randrange(256)]) + piece
        try:
            cut += len(decoder.feed(piece))
        except MalformedFrameError:
            assert decoder.held_bytes == 0
            decoder = FrameDecoder(4096)
        assert decoder.held_bytes < LENGTH_BYTES + 4096
    assert cut > 100


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 40))
def test_i6_the_work_grows_with_frames_and_pieces_at_most(bodies, size):
    """I6: however a stream is cut, no piece has the decoder look again at all that it holds."""
    stream = b"".join(map(encode_frame, bodies))
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    decoder, calls = FrameDecoder(), 0

    def count(frame, event, _):
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for piece in pieces:
            decoder.feed(piece)
    finally:
        sys.setprofile(before)
    assert calls <= 1 + 10 * (len(pieces) + len(bodies))
