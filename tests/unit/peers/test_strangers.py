# ruff: noqa: N802 - Twisted's names
"""I6: peers are strangers until proved, and after it whatever they send is a message or the end."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from crowd.codec import pack
from crowd.raft.frames import FRAME_BYTES_MAX, KEEP_ALIVE, LENGTH_BYTES, FrameDecoder, encode_frame
from crowd.raft.link import HELLO_BYTES_MAX, LinkState
from crowd.raft.wire import (
    MAGIC,
    TimeoutNow,
    decode_hello,
    decode_peer_message,
    encode_hello,
    encode_peer_message,
)
from tests.unit.peers.messages import EXAMPLES, PEER_MESSAGES, PLAIN, mutated
from tests.unit.peers.network import Network, Node, hello_of

ADDRESS = IPv4Address("TCP", "10.0.0.9", 40_000)
SAID = encode_frame(encode_peer_message(TimeoutNow(5)))


class Socket(StringTransport):
    """The transport of one stranger, who is `remote_name` if the handshake comes to that."""

    def __init__(self, remote_name):
        super().__init__()
        self.remote_name = remote_name

    def setTcpNoDelay(self, on):
        pass


class Visit:
    """A stranger at node b's peer port, byte by byte; b knows a and c."""

    def __init__(self, name="a", own=None):
        self.network = Network()
        self.node = Node(self.network, "b", hello=own)
        self.node.links.startService()
        self.transport = Socket(name)
        self.link = self.network.factories["b"].buildProtocol(ADDRESS)
        self.link.makeConnection(self.transport)
        self.lost = False

    def handshake(self):
        self.link.handshakeCompleted()
        return self

    def greet(self, hello=None):
        self.say(encode_frame(encode_hello(hello or hello_of("a"))))
        return self

    def say(self, data):
        """Let `data` arrive; return the log's lines, the connection's end among them."""
        with capturedLogs() as captured:
            self.link.dataReceived(data)
            self.network.settle()
            if self.transport.disconnecting and not self.lost:
                self.lost = True
                self.link.connectionLost(Failure(ConnectionDone()))
                self.network.settle()
        return [formatEvent(event) for event in captured]

    @property
    def held_bytes(self):
        return self.link._decoder.held_bytes

    @property
    def heard(self):
        return self.node.heard.heard


# --- Before the handshake ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        encode_frame(encode_hello(hello_of("a"))) + SAID,
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(1_000_000),
        encode_frame(b"\x80\x04pickle"),
    ],
)
def test_i6_before_the_handshake_no_byte_is_interpreted(data):
    """I6: whatever comes, nothing is kept, nothing is answered, and it counts for nothing later."""
    visit = Visit()
    assert not visit.say(data)
    assert visit.held_bytes == 0
    assert visit.transport.value() == b""
    visit.handshake()
    assert visit.link.state is LinkState.GREETING
    visit.greet()
    visit.say(SAID)
    assert visit.heard == [("connected", "a"), ("message", "a", TimeoutNow(5))]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("b", "found this node's own name b; expected another one's"),
        ("a.other", "found a.other; expected one node of this cluster"),
        ("", "found ; expected one node of this cluster"),
    ],
)
def test_i6_who_proves_to_be_no_other_node_hears_and_says_nothing(name, words):
    """I6: the node says not even hello to him, and does not read his."""
    visit = Visit(name)
    visit.handshake()
    told = visit.say(encode_frame(encode_hello(hello_of("a"))) + SAID)
    assert visit.transport.value() == b""
    assert visit.transport.disconnecting
    assert not visit.heard
    assert visit.held_bytes == 0
    assert told == [f"no link with a stranger at 10.0.0.9:40000: {words}"]


# --- The hello --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        ({"cluster": "other"}, "found cluster 'other'; expected 'leads'"),
        ({"name": "c"}, "found node name 'c'; expected 'a'"),
        ({"protocol": 2}, "found protocol version 2; expected 1"),
        ({"roster": "abd"}, "found roster 'a b d'; expected 'a b c'"),
        ({"roster": "ab", "roster_index": 9}, "found roster 'a b'; expected 'a b c'"),
        ({"roster": "acd", "roster_index": 10}, "b is not among the members 'a c d'"),
    ],
)
def test_i6_a_hello_that_does_not_fit_is_refused_and_told(hello, words):
    """I6: of another cluster, of another node, with other members; it is never heard of."""
    visit = Visit(own=hello_of("b", roster_index=9)).handshake()
    fields = {"name": "a", "roster_index": 9, **hello}
    told = visit.say(encode_frame(encode_hello(hello_of(**fields))) + SAID)
    assert told == [f"no link with a at 10.0.0.9:40000: {words}"]
    assert not visit.heard
    assert visit.transport.value(), "b's own hello tells a why"


def test_i6_the_hello_of_who_is_no_member_any_more_is_refused():
    """I6: its certificate is good and its name is known, but the last change put it out."""
    visit = Visit(own=hello_of("b", roster="bc", roster_index=9)).handshake()
    told = visit.say(encode_frame(encode_hello(hello_of("a", roster_index=4))))
    assert told == ["no link with a at 10.0.0.9:40000: a is not among the members 'b c'"]
    assert not visit.heard


@pytest.mark.parametrize(
    ("roster", "roster_index", "words"),
    [
        ("abcx", 9, "found roster 'a b c x'; expected 'a b c'"),
        ("abcx", 8, "x is not among the members 'a b c'"),
        ("acx", 10, "b is not among the members 'a c x'"),
    ],
)
def test_i6_a_node_that_no_newer_members_speak_for_is_refused_with_words(
    roster, roster_index, words
):
    """I6: its certificate is of this cluster; neither side's members of last account have both."""
    visit = Visit("x", own=hello_of("b", roster_index=9)).handshake()
    hello = hello_of("x", roster, roster_index=roster_index)
    told = visit.say(encode_frame(encode_hello(hello)) + SAID)
    assert told == [f"no link with x at 10.0.0.9:40000: {words}"]
    assert not visit.heard


def test_a_node_that_newer_members_speak_for_is_welcome():
    """This node missed the enrolment, and would never hear of it if it let in only whom it knows."""
    visit = Visit("x", own=hello_of("b", roster_index=9)).handshake()
    visit.greet(hello_of("x", "abcx", roster_index=10))
    visit.say(SAID)
    assert visit.heard == [("connected", "x"), ("message", "x", TimeoutNow(5))]


def test_a_peer_that_has_not_heard_of_the_last_change_is_welcome():
    """Either side may be behind, or else it would never hear of the change."""
    for own, theirs in ((9, 4), (4, 9)):
        rosters = {4: "abc", 9: "abcd"}
        visit = Visit(own=hello_of("b", roster=rosters[own], roster_index=own)).handshake()
        visit.greet(hello_of("a", roster=rosters[theirs], roster_index=theirs))
        assert visit.heard == [("connected", "a")]


GOOD = [MAGIC, 1, 1, "leads", "a", bytes(16), ["a", "b", "c"], 0, b"", True]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (GOOD[1:], "not a hello: it does not begin with 'crowd-peer'"),
        (GOOD[:-1], "not a hello: Expected `array` of at least length 9, got 8"),
        ([*GOOD, 0], "not a hello: Expected `array` of at most length 9, got 10"),
        ([*GOOD[:5], bytes(15), *GOOD[6:]], "not a hello: Expected `bytes` of length >= 16"),
        ([*GOOD[:6], [], *GOOD[7:]], "not a hello: Expected `array` of length >= 1"),
        ([*GOOD[:6], ["a"] * 33, *GOOD[7:]], "not a hello: Expected `array` of length <= 32"),
        ([*GOOD[:3], "x" * 64, *GOOD[4:]], "not a hello: Expected `str` of length <= 63"),
        ([*GOOD[:7], -1, *GOOD[8:]], "not a hello: Expected `int` >= 0"),
        ([*GOOD[:9], 1], "not a hello: Expected `bool`, got `int`"),
        ({"crowd-peer": 1}, "not a hello: CBOR with a tag or a map; expected neither"),
        ([5, 1], "not a hello: it does not begin with 'crowd-peer'"),
    ],
)
def test_i6_a_hello_of_the_wrong_shape_says_what_is_wrong(value, words):
    """I6: well-formed CBOR that is no hello ends the connection, and the log tells why."""
    visit = Visit().handshake()
    (told,) = visit.say(encode_frame(pack(value)))
    assert told.startswith(f"no link with a at 10.0.0.9:40000: {words}"), told
    assert not visit.heard


def test_i6_an_empty_first_frame_is_no_hello():
    """I6: a keep-alive before the hello is out of order."""
    visit = Visit().handshake()
    (told,) = visit.say(KEEP_ALIVE)
    assert "not a hello: not CBOR" in told


def test_i7_the_first_frame_has_a_bound_of_its_own():
    """I7: 64 KiB, refused at its length, before a byte of it is kept."""
    visit = Visit().handshake()
    (told,) = visit.say((HELLO_BYTES_MAX + 1).to_bytes(4, "big"))
    assert "a frame claims 65537 bytes; expected at most 65536" in told
    assert visit.held_bytes == 0


# --- After the hello --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (encode_hello(hello_of("a")), "found kind 'crowd-peer'; expected a number"),
        (pack([99, 1]), "not a peer's message: found kind 99; expected a known one"),
        (pack([-1]), "not a peer's message: found kind -1; expected a known one"),
        (pack([[5], 1]), "not a peer's message: a kind of tuple"),
        (pack([]), "not a peer's message: an empty array"),
        (pack(7), "not a peer's message: int where an array with a kind belongs"),
        (pack({"5": 1}), "not a peer's message: CBOR with a tag or a map; expected neither"),
        (pack([2, 1]), "no NextIndex: Expected `array` of at least length 8, got 2"),
        (pack([5, 1, 2]), "no TimeoutNow: Expected `array` of at most length"),
        (pack([5, "x"]), "no TimeoutNow: Expected `int`, got `str`"),
        (pack([5, 1.0]), "no TimeoutNow: Expected `int`, got `float`"),
        (pack([5.0, 1]), "no TimeoutNow: Expected `int`, got `float`"),
        (pack([5, -1]), "no TimeoutNow: Expected `int` >= 0"),
        (pack([5, 2**63]), "no TimeoutNow: Expected `int` <= 9223372036854775807"),
        (pack([8, "text"]), "no Offer: Expected `bytes`, got `str`"),
        (pack([3, 1, 2, 3]), "no RequestVote: Expected `array` of at least length 5, got 4"),
        (pack([1, 5, 0, 9, 3, 0, [[b"x", 11, 3]]]), "entry 11 where 10 belongs"),
        (pack([1, 5, 0, 9, 3, 0, [[b"x", 10, 6]]]), "entry 10 has term 6, expected 0 to 5"),
        (pack([16, 1, 9, 1, bytes(32), 10, 8, b"abc"]), "a snapshot up to 11 of its 10 bytes"),
        (pack([16, 1, 9, 1, bytes(32), 10, 8, b""]), "no SnapshotPiece: Expected `bytes` of len"),
        (pack([17, 1, bytes(31), 0]), "no SnapshotWanted: Expected `bytes` of length >= 32"),
        (b"\xc1\x00", "CBOR with a tag or a map; expected neither"),
        (b"\x82\x05", "not a peer's message: not CBOR: premature end"),
        (b"\x82\x05\x01\x00", "1 bytes after the end of a CBOR value"),
        (b"\x81" * 40, "not a peer's message: not CBOR: maximum container nesting depth"),
        (b"\x9f\x05\x01\xff", "not a peer's message: not CBOR: error decoding array"),
        (b"\x80\x04pickle", "after the end of a CBOR value"),
    ],
)
def test_i6_a_message_of_the_wrong_shape_says_what_is_wrong(frame, words):
    """I6: the peer is disconnected with the reason; what came before counts, what follows not."""
    visit = Visit().handshake().greet()
    told = visit.say(SAID + encode_frame(frame) + SAID)
    (line,) = [text for text in told if text.startswith("lost peer a: ")]
    assert words in line
    assert visit.heard[:2] == [("connected", "a"), ("message", "a", TimeoutNow(5))]
    assert visit.heard[2:] == [("disconnected", "a", line.removeprefix("lost peer a: "))]
    assert not visit.say(SAID)
    assert not visit.node.links.connected


def test_i7_a_frame_over_the_bound_is_refused_at_its_length():
    """I7: 20 MiB and a byte more, of a proved peer that said hello."""
    visit = Visit().handshake().greet()
    told = visit.say((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    assert told == ["lost peer a: a frame claims 20971521 bytes; expected at most 20971520"]
    assert visit.held_bytes == 0


def test_i7_what_a_peer_sends_fills_no_log():
    """I7: a decoder's complaint repeats a little of what came, in one printable line."""
    key = b"\x7a\x00\x01\x86\xa0" + b"\n" * 100_000
    visit = Visit().handshake().greet()
    told = visit.say(encode_frame(b"\xa2" + 2 * (key + b"\x00")))
    assert len(told) == 1
    assert len(told[0]) < 300
    assert told[0].isprintable()


# --- Anything at all ---------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            PEER_MESSAGES.map(encode_peer_message).map(encode_frame),
            PLAIN.map(pack).map(encode_frame),
            mutated(PEER_MESSAGES.map(encode_peer_message).map(encode_frame)),
            mutated(st.just(encode_frame(encode_hello(hello_of("a"))))),
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_i6_any_bytes_of_a_peer_are_messages_or_the_end(pieces, greeted):
    """I6: nothing is raised, only known messages are heard, and the reason of the end is told."""
    visit = Visit().handshake()
    if greeted:
        visit.greet()
    told = []
    for piece in pieces:
        told += visit.say(piece)
        assert visit.held_bytes < LENGTH_BYTES + FRAME_BYTES_MAX
        assert visit.held_bytes <= sum(map(len, pieces))
    messages = [event[2] for event in visit.heard if event[0] == "message"]
    for message in messages:
        assert decode_peer_message(encode_peer_message(message)) == message
    if visit.lost:
        assert any(text.startswith(("lost peer a: ", "no link with a ")) for text in told)
        assert not visit.node.links.connected
    assert [kind for kind, _ in visit.node.heard.kinds() if kind == "connected"] == [
        "connected"
    ] * (bool(visit.heard))


def test_i6_ten_thousand_random_strangers_change_nothing():
    """I6: a fixed number of random and almost right inputs; the node goes on as before."""
    chance = random.Random(6)
    visit = Visit().handshake().greet()
    hello = encode_frame(encode_hello(hello_of("a")))
    taken = 0
    for _ in range(10_000):
        data = bytearray(encode_frame(encode_peer_message(chance.choice(EXAMPLES))))
        for _ in range(chance.randrange(3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        before = len(visit.heard)
        visit.link.dataReceived(bytes(data))
        taken += len(visit.heard) > before
        assert visit.held_bytes < LENGTH_BYTES + FRAME_BYTES_MAX
        visit.node.heard.heard.clear()
        if visit.link.state is LinkState.CLOSED or visit.held_bytes:
            # A new connection for the next: as a node that was refused would make it.
            factory = visit.network.factories["b"]
            visit.link.connectionLost(Failure(ConnectionDone()))
            visit.network.settle()
            visit.link, visit.transport = factory.buildProtocol(ADDRESS), Socket("a")
            visit.link.makeConnection(visit.transport)
            visit.link.handshakeCompleted()
            visit.link.dataReceived(hello)
            assert visit.node.heard.kinds()[-1] == ("connected", "a")
            visit.node.heard.heard.clear()
    assert 3_000 < taken < 10_000
    assert len(visit.node.links._links) == 1


def test_the_examples_are_decoded_as_they_are():
    """Or else what is made of them by a changed byte tests nothing."""
    for message in EXAMPLES:
        assert decode_peer_message(encode_peer_message(message)) == message
    assert decode_hello(encode_hello(hello_of("a"))) == hello_of("a")
    assert FrameDecoder().feed(SAID) == [SAID[LENGTH_BYTES:]]
