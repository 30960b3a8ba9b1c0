"""Links in memory: who connects to whom, who is refused, and what is bounded."""

from __future__ import annotations

import pytest
from twisted.internet.defer import fail
from twisted.internet.error import CannotListenError

from crowd.codec import pack
from crowd.errors import FatalError
from crowd.raft.frames import encode_frame
from crowd.raft.links import BULK_BYTES_MAX, QUEUED_BYTES_MAX, PeerLinks
from crowd.raft.wire import (
    AppendEntries,
    Fetch,
    Fetched,
    NextIndex,
    Offer,
    ResponseVote,
    SnapshotPiece,
    SnapshotWanted,
    TimeoutNow,
    encode_hello,
)
from tests.unit.peers.network import Just, Silent

MIB = 1024 * 1024


@pytest.fixture
def trio(network, make_node):
    nodes = {name: make_node(name) for name in "abc"}
    network.pass_s(2)
    return nodes


def test_every_pair_is_connected_once(network, trio):
    """Three nodes have three connections, and each node knows both others."""
    for name, node in trio.items():
        assert set(node.links.connected) == set("abc") - {name}
        assert sorted(node.heard.heard) == [
            ("connected", peer) for peer in sorted(set("abc") - {name})
        ]
    assert sum(not wire.gone for wire in network.wires) == 6


def test_messages_arrive_in_order(network, trio):
    """What is sent first arrives first, from and to the right node."""
    a, b = trio["a"], trio["b"]
    messages = [NextIndex(1, number, True, False, 0, 0, True) for number in range(50)]
    assert all(a.send("b", message) for message in messages)
    assert b.send("a", TimeoutNow(3))
    network.settle()
    assert b.heard.messages() == messages
    assert a.heard.heard[-1] == ("message", "b", TimeoutNow(3))
    assert not trio["c"].heard.messages()


def test_nothing_is_sent_to_who_is_not_connected(network, make_node):
    """`send` says so, and does not keep the message for later."""
    a = make_node("a")
    network.settle()
    assert not a.send("b", TimeoutNow(1))
    assert not a.links.writable("b")
    assert a.links.queued_bytes("b") == 0


def test_a_lost_peer_is_called_until_it_is_back(network, trio):
    """A node that restarts is connected again within a second or so, by either side."""
    a, c = trio["a"], trio["c"]
    stopped = c.links.stopService()
    network.settle()
    assert stopped.called
    network.pass_s(10)
    assert a.heard.kinds()[-1] == ("disconnected", "c")
    assert set(a.links.connected) == {"b"}
    c.links.startService()
    network.pass_s(1.25)
    assert set(c.links.connected) == {"a", "b"}
    assert a.heard.kinds()[-1] == ("connected", "c")


def test_idle_links_stay_up_and_silent_ones_end(network, trio):
    """Two followers say nothing to each other for long; a cut cable is noticed in 3.5 s."""
    b, c = trio["b"], trio["c"]
    network.pass_s(30)
    assert sorted(b.heard.heard) == [("connected", "a"), ("connected", "c")]
    b.wire_to("c").stuck = c.wire_to("b").stuck = True
    network.down.add("c")
    network.pass_s(2.5)
    assert "c" in b.links.connected
    network.pass_s(1.5)
    assert "c" not in b.links.connected
    assert ("disconnected", "c", "nothing heard for 3 s") in b.heard.heard
    assert any(event[:2] == ("disconnected", "b") for event in c.heard.heard)


def test_a_node_that_was_stopped_and_woken_drops_nobody(network, trio):
    """Ten minutes without the processor are one tick, not 1 200: what came is read first."""
    network.clock.advance(600)
    network.settle()
    assert all(len(node.links.connected) == 2 for node in trio.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cluster": "other"}, ("found cluster 'other'; expected 'leads'", "found cluster 'leads'; expected 'other'")),
        ({"roster": ("a", "b", "d")}, ("found roster 'a b d'", "expected 'a b d'")),
        ({"protocol": 2}, ("found protocol version 2; expected 1",)),
    ],
)  # fmt: skip
def test_another_cluster_roster_or_protocol_is_refused_by_both(
    network, make_node, make_hello, logged, options, words
):
    """Neither listener hears of the other; both logs say what was found and expected."""
    a = make_node("a")
    b = make_node("b", hello=make_hello("b", **options))
    network.pass_s(3)
    assert not a.heard.heard
    assert not b.heard.heard
    for word in words:
        assert any(word in text for text in logged), (word, logged)


def test_a_refused_peer_is_called_rarely_and_complained_of_once(
    network, make_node, make_hello, logged
):
    """A wrong configuration neither floods the network nor the log."""
    make_node("a", roster=("a", "b"))
    make_node("b", roster=("a", "b"), hello=make_hello("b", cluster="other"))
    network.pass_s(30)
    assert network.calls < 50
    assert len([text for text in logged if "no link" in text]) <= 4
    network.pass_s(120)
    assert len([text for text in logged if "no link" in text]) <= 12


def test_a_peer_that_is_another_than_its_name_is_refused(network, make_node, logged):
    """A certificate of x where b is called proves x, not b; the caller says so, and nothing else."""
    network.claims["b"] = "x"
    a, b = make_node("a"), make_node("b")
    network.pass_s(3)
    assert not a.heard.heard
    assert not b.heard.heard
    assert any("found x; expected ('b',)" in text for text in logged)


def test_a_caller_with_this_nodes_own_name_is_refused(network, make_node, logged):
    """Two that have one name's certificate do not talk to each other."""
    b = make_node("b")
    twin = Silent()
    network.join(Just(twin), "b", network.factories["b"], "b")
    network.settle()
    assert twin.transport.gone
    assert not twin.got
    assert not b.heard.heard
    assert any("found this node's own name b; expected another one's" in text for text in logged)


def test_a_hello_with_another_name_than_the_certificate_is_refused(
    network, make_node, make_hello, logged
):
    """A node proved as a cannot greet as c."""
    a, b = make_node("a", hello=make_hello("c")), make_node("b")
    network.pass_s(3)
    assert not b.heard.heard
    assert not a.links.connected
    assert any("found node name 'c'; expected 'a'" in text for text in logged)


def test_who_says_nothing_is_closed_after_5_s(network, make_node):
    """A connection without a hello does not stay."""
    make_node("b")
    stranger = Silent()
    network.join(Just(stranger), "a", network.factories["b"], "b")
    network.pass_s(4.5)
    assert not stranger.transport.gone
    network.pass_s(1.5)
    assert stranger.transport.gone


def test_strangers_are_bounded(network, make_node):
    """I7: the 65th connection of nobody known is closed at once."""
    make_node("b")
    strangers = [Silent() for _ in range(80)]
    for stranger in strangers:
        network.join(Just(stranger), "x", network.factories["b"], "b")
        stranger.transport.other.protocol.handshakeCompleted = lambda: None
    network.clock.advance(0)
    assert sum(not stranger.transport.gone for stranger in strangers) <= 64


def test_i7_nodes_that_say_nothing_are_bounded(network, make_node):
    """I7: whoever holds a certificate of the cluster and no hello is among those 64."""
    b = make_node("b")
    silent = [Silent() for _ in range(80)]
    for number, one in enumerate(silent):
        network.join(Just(one), f"n{number}", network.factories["b"], "b")
        network.settle()
    assert sum(not one.transport.gone for one in silent) == 64
    network.pass_s(7)
    assert all(one.transport.gone for one in silent)
    make_node("a")
    network.pass_s(2)
    assert set(b.links.connected) == {"a"}


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
        b"\xff\xff\xff\xff",
        encode_frame(b"\x80\x04pickle"),
        encode_frame(b""),
        encode_frame(pack([2, 1, 1, True, False, 0, 0])),
    ],
)
def test_i6_garbage_instead_of_a_hello_ends_the_connection(network, make_node, garbage):
    """I6: whatever a proved peer says first, it is a hello or the end; the node goes on."""
    b = make_node("b")
    stranger = Silent()
    network.join(Just(stranger), "a", network.factories["b"], "b")
    network.settle()
    stranger.transport.write(garbage)
    network.settle()
    assert stranger.transport.gone
    assert not b.heard.heard
    a = make_node("a")
    network.pass_s(1)
    assert set(a.links.connected) == {"b"}


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", encode_frame(b"\x80\x04pickle")])
def test_i6_garbage_after_the_hello_ends_the_connection(network, trio, garbage):
    """I6: a peer that loses its mind is disconnected with a reason, and called again."""
    a, b = trio["a"], trio["b"]
    a.wire_to("b").write(garbage)
    network.settle()
    kind, peer, why = b.heard.heard[-1]
    assert (kind, peer) == ("disconnected", "a")
    assert "frame" in why or "not a peer's message" in why
    network.pass_s(2)
    assert "b" in a.links.connected


def test_a_newer_connection_of_a_peer_replaces_the_older(network, trio, make_hello):
    """A peer that lost its end without a word is back at once; the order is kept."""
    b = trio["b"]
    again = Silent()
    network.join(Just(again), "a", network.factories["b"], "b")
    network.settle()
    again.transport.write(encode_frame(encode_hello(make_hello("a"))))
    network.settle()
    assert b.heard.heard[2:4] == [
        ("disconnected", "a", "replaced by a newer connection"),
        ("connected", "a"),
    ]


def test_disconnect_takes_effect_at_once_and_is_told_later(network, trio):
    """After `disconnect` nothing is sent or received; the listener hears it in its own turn."""
    a, b = trio["a"], trio["b"]
    b.send("a", TimeoutNow(1))
    a.heard.inside_send = True  # the recorder would complain
    a.links.disconnect("b", "it said nonsense")
    a.heard.inside_send = False
    assert "b" not in a.links.connected
    assert not a.send("b", TimeoutNow(1))
    network.settle()
    assert a.heard.heard[-1] == ("disconnected", "b", "it said nonsense")
    assert not a.heard.messages()
    a.links.disconnect("nobody", "no such peer")
    network.pass_s(2)
    assert "b" in a.links.connected


def test_i7_a_slow_peer_gets_no_more_entries_but_votes_pass(network, trio):
    """I7: above 4 MiB entries, offers, pieces and repairs wait with the engine; the rest passes."""
    a = trio["a"]
    wire = a.wire_to("b")
    wire.stuck = True
    entry = AppendEntries(1, 0, 0, 0, 0, ((bytes(MIB), 1, 1),))
    taken = 0
    while a.send("b", entry):
        taken += 1
    assert taken <= BULK_BYTES_MAX // MIB + 2
    assert not a.links.writable("b")
    assert not a.send("b", Offer(b"x"))
    assert not a.send("b", SnapshotPiece(1, 9, 1, bytes(32), 10, 0, b"x"))
    assert not a.send("b", Fetched(b"x", 9, 1))
    assert a.send("b", ResponseVote(1))
    assert a.send("b", SnapshotWanted(1, bytes(32), 10))
    assert a.send("b", Fetch(9))
    assert a.send("b", AppendEntries(1, 0, 0, 0, 0, ()))
    assert a.send("c", entry)  # another peer's link is its own
    wire.stuck = False
    wire.flush()
    network.settle()
    assert a.links.writable("b")
    assert a.links.queued_bytes("b") == 0
    assert len(trio["b"].heard.messages()) == taken + 4


def test_i7_the_hard_bound_ends_the_link(network, trio):
    """I7: heartbeats to a peer that never reads do not gather without end."""
    a = trio["a"]
    a.wire_to("b").stuck = True
    link = a.links._open["b"]
    heartbeat = AppendEntries(1, 0, 0, 0, 0, ())
    assert a.send("b", heartbeat)
    link.write(bytes(MIB))
    link.write(bytes(QUEUED_BYTES_MAX - MIB))
    assert a.links.queued_bytes("b") <= QUEUED_BYTES_MAX
    while a.send("b", heartbeat):
        assert a.links.queued_bytes("b") <= QUEUED_BYTES_MAX
    assert a.links.queued_bytes("b") == 0
    network.settle()
    assert a.heard.kinds()[-1] == ("disconnected", "b")
    assert "wait for it to read" in a.heard.heard[-1][2]


def test_an_address_in_use_is_fatal_and_says_so(network):
    """A node that cannot be reached by its peers does not start."""

    class Busy:
        def listen(self, factory):
            return fail(CannotListenError("", 2105, OSError(98, "Address already in use")))

    links = PeerLinks(
        network.clock, name="a", hello=None, dial=None, accept=Busy(), security=Passing(),
        listener=None, chance=None,
    )  # fmt: skip
    with pytest.raises(FatalError, match=r"cannot listen for peers: .*in use"):
        links.startService()


def test_stopping_waits_for_connections_at_most_a_little(network, trio):
    """A peer that never closes its end does not hold up the stop for more than 1.5 s."""
    a = trio["a"]
    a.wire_to("b").stuck = True
    stopped = a.links.stopService()
    network.settle()
    assert not stopped.called
    network.pass_s(2)
    assert stopped.called
    assert not a.links.connected
    assert ("disconnected", "b", "this node stops") in a.heard.heard


class Passing:
    """Security that is never asked."""

    def accepting(self, factory):
        return factory
