"""The frames between a worker and its engine's process: a value, or the one error."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd import errors
from crowd.codec import pack
from crowd.config import from_text, single_node
from crowd.errors import (
    ConfigurationError,
    KeyReusedError,
    MalformedFrameError,
    OutcomeUnknownError,
    RefusedError,
)
from crowd.idempotency import keyed
from crowd.raft.frames import FRAME_BYTES_MAX, encode_frame
from crowd.workers.wire import (
    ERRORS,
    OFFER_MESSAGES_MAX,
    Accepted,
    Await,
    Configure,
    Drain,
    Ended,
    Found,
    Known,
    Look,
    Offer,
    Refusal,
    Refused,
    Renew,
    State,
    Tally,
    Together,
    configuration_of,
    configure,
    decode_from_worker,
    decode_to_worker,
    encode,
    error_of,
    refusal_of,
)

REFUSAL = Refusal(2, "the backlog is full", 10)
FROM = (
    Offer(1, 0, (1,), (b"x",)),
    Offer(2**62, 9, (1, 2), (b"\x00" * 300, b"")),
    Tally((("crowd_http_connections", 3.0), ("crowd_http_requests_total", 0.0))),
    Tally(()),
    Offer(3, 0, (1, 2), (b"a", b"b", b"c"), (0, 2), (b"k" * 32, keyed(0, b"k" * 32, 2))),
    Look(1, 2**62),
    Await(2, 1, 3, 30_000),
)
TO = (
    Configure(2, b"node", b"{}"),
    Configure(1, b"node", b"{}", (("/a.pem", b"x"),)),
    Renew((("/a.pem", b"x"), ("/a.key", b"y"))),
    State(None, (), None, ()),
    State("0123abcd", (("/leads", 1, 0), ("/<path:rest>", 2, 3)), REFUSAL, ((1, REFUSAL),)),
    Accepted(1, 0, 4096, 1),
    Refused(1, 4095, 1, REFUSAL),
    Known(1, 4095, 7),
    Together(1, 0, 9, 4096, ((0, 2, 5), (7, 1, 1))),
    Found(1, "/leads", "dead", (("api", "dead", 3),)),
    Found(2, None, "unknown", ()),
    Ended(3, "delivered", 201, ((b"A", b"\xff"),), b"made"),
    Drain(),
)


@pytest.mark.parametrize("frame", FROM)
def test_what_a_worker_says_is_what_is_heard(frame):
    assert decode_from_worker(encode(frame)) == frame


@pytest.mark.parametrize("frame", TO)
def test_what_the_engine_says_is_what_is_heard(frame):
    assert decode_to_worker(encode(frame)) == frame


@pytest.mark.parametrize("frame", [*FROM, *TO])
def test_each_side_takes_only_what_the_other_one_says(frame):
    wrong = decode_to_worker if frame in FROM else decode_from_worker
    with pytest.raises(MalformedFrameError):
        wrong(encode(frame))


@pytest.mark.parametrize(
    "value",
    [
        [], [99], [1], 7, b"x", [1, 1, 0, [1], [b"x", b"y"]], [1, 1, 0, [], []], [1, 0, 0, [1], [b"x"]],
        [1, 1, 0, [1], [b"x"], [0, 0], []], [1, 1, 0, [1], [b"x"], [2], []], [1, 1, 0, [1], [b"x"], [], [b"k"]],
        [1, 1, 0, [1], [b"x", b"y"], [2], [b"k" * 32]], [1, 1, 0, [1], [b"x", b"y"], [2], [keyed(1, b"k" * 32, 2)]],
        [3, 0, 1], [3, 1, 0], [4, 1, 1, 0, 1], [4, 1, 1, 1, -1],
        [1, 1, 0, [0], [b"x"]], [1, 1, -1, [1], [b"x"]], [1, 1, 0, [1], ["x"]], [1, 1, 0, [1], [b"x"], 1],
        [2, [["x", -1.0]]], [2, [["x", float("nan")]]], [2, [["x" * 257, 1.0]]], [[1], 1],
        [1, 1, 0, [1] * (OFFER_MESSAGES_MAX + 1), [b""] * (OFFER_MESSAGES_MAX + 1)], ["crowd-peer", 1], [16, 0, b""], [20],
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_the_one_error(value):
    with pytest.raises(MalformedFrameError):
        decode_from_worker(pack(value))


@given(st.binary(max_size=200))
def test_i6_any_bytes_are_a_frame_or_the_one_error(data):
    for decode in (decode_from_worker, decode_to_worker):
        with suppress(MalformedFrameError):
            decode(data)


def test_i6_frames_with_other_bytes_in_them_are_frames_or_the_one_error():
    chance = random.Random(11)
    for frame in (*FROM, *TO):
        for _ in range(400):
            data = bytearray(encode(frame))
            for _ in range(chance.randrange(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            for decode in (decode_from_worker, decode_to_worker):
                with suppress(MalformedFrameError):
                    decode(bytes(data))


def test_the_largest_message_fits_into_a_frame():
    stored = bytes(16 * 2**20 + 64 * 1024)
    frame = encode_frame(encode(Offer(2**62, 2**62, (2**62,), (stored,))))
    assert len(frame) <= FRAME_BYTES_MAX


def test_every_error_of_a_proposal_passes():
    """A class that is new must get its number, or its producers hear that nobody knows."""
    known = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, RefusedError | OutcomeUnknownError)
    }
    assert set(ERRORS) == known
    for kind in ERRORS:
        error = error_of(refusal_of(kind("why", retry_after_s=7)))
        assert (type(error), error.reason, error.retry_after_s) == (kind, "why", 7)


def test_a_reused_key_passes_and_is_not_to_be_tried_again():
    error = error_of(refusal_of(KeyReusedError("another request")))
    assert (type(error), str(error)) == (KeyReusedError, "another request")


def test_an_error_that_is_none_of_a_proposal_leaves_the_outcome_unknown():
    assert isinstance(error_of(refusal_of(ZeroDivisionError())), OutcomeUnknownError)
    with pytest.raises(MalformedFrameError):
        error_of(Refusal(len(ERRORS) + 1, "", 1))


def test_a_configuration_arrives_whole():
    text = """
        [node]
        name = "a"
        workers = 3
        [cluster]
        name = "c"
        peers = { a = "h:1", b = "h:2" }
        certificate = "c"
        private_key = "k"
        authority = "a"
        [[route]]
        path = "/leads/<path:rest>"
        wait = "30 s"
        many = true
        idempotency = "event"
        require = "any"
        key = [{ name = "shop", sha256 = ["DIGEST"] }]
        key_from = ["bearer", "header:X-Key"]
        signature = { name = "gateway", form = "github", secrets = ["env:KEY"] }
        certificate = [{ name = "shop", names = ["dns:shop.example"] }]
        cors = { origins = ["https://a.example"] }
        content = { types = ["application/json"], json = true }
        rate = { limit = "100/s", burst = 20, by = "address" }
        [[consumer]]
        name = "x"
        url = "https://h"
        batch = { form = "ndjson" }
        retry.schedule = "patient"
        secrets = ["env:KEY"]
        reach.allow = ["10.0.0.0/8"]
    """
    text = text.replace("DIGEST", "0" * 64)
    for configuration in (from_text(text, "t"), single_node("http://h")):
        assert configuration_of(configure(configuration, 3, b"node", {})) == configuration


def test_i7_a_configuration_that_no_frame_holds_is_refused():
    """It would be the worker's end, again and again."""
    files = dict.fromkeys(("a", "b"), bytes(FRAME_BYTES_MAX // 2))
    with pytest.raises(ConfigurationError, match=r"node\.workers: found \d+ bytes"):
        configure(single_node("http://h"), 2, b"node", files)


def test_a_private_key_is_in_no_line_of_a_log():
    frame = configure(single_node("http://h"), 2, b"node", {"/a.key": b"secret"})
    assert "secret" not in repr(frame) + repr(Renew(frame.files))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"node": 1}'])
def test_what_is_no_configuration_is_the_one_error(data):
    with pytest.raises(MalformedFrameError):
        configuration_of(Configure(1, b"node", data))
