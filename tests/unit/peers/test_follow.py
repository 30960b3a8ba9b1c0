"""Members that come and go: links follow whoever is named, at any time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.raft.frames import encode_frame
from crowd.raft.wire import TimeoutNow, encode_hello
from tests.unit.peers.network import Just, Network, Node, Silent

ABC = {"a": "a", "b": "b", "c": "c"}
ABCD = {**ABC, "d": "d"}


@pytest.fixture
def trio(network, make_node):
    nodes = {name: make_node(name) for name in "abc"}
    network.pass_s(2)
    return nodes


@pytest.fixture
def enroll(make_hello):
    """Have `nodes` know `peers` as the members, from the change at `index` on."""

    def change(nodes, peers, index):
        for node in nodes:
            node.hello = make_hello(node.name, roster=sorted(peers), roster_index=index)
            node.links.follow(peers)

    return change


def test_a_new_member_is_dialled_and_accepted(network, trio, make_node, enroll):
    """A fourth node knocks in vain until the members know of it; then all are linked."""
    d = make_node("d", roster="abcd")
    network.pass_s(3)
    assert not d.links.connected
    enroll(trio.values(), ABCD, 7)
    network.pass_s(1)
    assert set(d.links.connected) == set("abc")
    for name, node in trio.items():
        assert set(node.links.connected) == set("abcd") - {name}
        assert node.heard.kinds()[-1] == ("connected", "d")


def test_a_new_member_that_sorts_first_dials(network, trio, make_node, make_hello, enroll):
    """The node that joins may be the one that calls: who is let in is asked at the handshake."""
    node = make_node("0", roster=("0", "a", "b", "c"))
    network.pass_s(3)
    assert not node.links.connected
    enroll(trio.values(), {**ABC, "0": "0"}, 7)
    network.pass_s(3)
    assert set(node.links.connected) == set("abc")


def test_who_became_a_member_during_the_handshake_is_let_in(network, make_node, make_hello):
    """The candidates are those of the moment when the handshake is complete."""
    b = make_node("b", roster=("b", "c"))
    a = make_node("a", roster=("a", "b", "c"))  # its connection is made, its handshake to come
    b.hello = make_hello("b", roster_index=3)
    b.links.follow(ABC)
    network.settle()
    assert set(a.links.connected) == {"b"}


@pytest.mark.parametrize("gone", ["a", "b", "c"])
def test_a_member_that_is_gone_is_disconnected_and_called_no_more(network, trio, gone, enroll):
    """Both sides hear why; the others stay linked; nobody calls again, either way."""
    rest = {name: node for name, node in trio.items() if name != gone}
    heard = {name: len(node.heard.heard) for name, node in rest.items()}
    enroll(rest.values(), {name: name for name in rest}, 7)
    for name, node in rest.items():
        assert gone not in node.links.connected
        assert not node.send(gone, TimeoutNow(1))
        assert len(node.heard.heard) == heard[name], "told from inside `follow`"
    network.settle()
    for name, node in rest.items():
        assert node.heard.heard[heard[name] :] == [("disconnected", gone, "is no member any more")]
    assert not trio[gone].links.connected
    assert sorted(trio[gone].heard.kinds()[-2:]) == [("disconnected", name) for name in rest]
    trio[gone].links.follow({})
    network.settle()
    network.calls = 0
    network.pass_s(30)
    assert network.calls == 0
    assert all(set(node.links.connected) == rest.keys() - {name} for name, node in rest.items())


def test_what_was_sent_before_a_member_is_gone_still_goes_out(network, trio):
    """The member that leaves is told so by the last message, not by a cut."""
    a, c = trio["a"], trio["c"]
    assert a.send("c", TimeoutNow(5))
    a.links.follow({"b": "b"})
    network.settle()
    assert c.heard.messages() == [TimeoutNow(5)]
    assert c.heard.kinds()[-1] == ("disconnected", "a")


def test_a_member_that_does_not_read_is_gone_nevertheless(network, trio):
    """A full connection is aborted a second later."""
    a = trio["a"]
    a.wire_to("c").stuck = True
    a.links.follow({"b": "b"})
    network.pass_s(2)
    assert a.heard.kinds()[-1] == ("disconnected", "c")
    assert a.wire_to("c").gone


def test_a_stranger_that_is_expelled_before_its_hello_is_closed(network, trio, make_hello):
    """Proved is not greeted: a link that is not open yet ends like the others."""
    b = trio["b"]
    a = trio["a"]
    a.links.follow({})
    network.settle()
    network.down.add("b")
    late = Silent()
    network.join(Just(late), "a", network.factories["b"], "b")
    network.settle()
    b.links.follow({"c": "c"})
    late.transport.write(encode_frame(encode_hello(make_hello("a"))))
    network.settle()
    assert late.transport.gone
    assert set(b.links.connected) == {"c"}


def test_a_peer_that_moved_is_dialled_anew(network, trio, make_node):
    """The old link ends, the new address is called at once, the old one never again."""
    a, c = trio["a"], trio["c"]
    network.factories["elsewhere"] = network.factories.pop("c")
    network.claims["elsewhere"] = "c"
    a.links.follow({"b": "b", "c": "elsewhere"})
    network.pass_s(1)
    assert a.heard.kinds()[-2:] == [("disconnected", "c"), ("connected", "c")]
    assert a.heard.heard[-2][2] == "its address is elsewhere now"
    assert set(a.links.connected) == {"b", "c"}
    assert c.heard.kinds()[-1] == ("connected", "a")
    network.calls = 0
    network.pass_s(20)
    assert network.calls == 0, "one connection at a time"


def test_a_peer_that_calls_may_move_unnoticed(network, trio):
    """Its address is for those that dial it; the link that it made stays."""
    b = trio["b"]
    before = list(b.heard.heard)
    b.links.follow({"a": "elsewhere", "c": "c"})
    network.pass_s(5)
    assert b.heard.heard == before


def test_a_peer_that_moved_while_it_was_called(network, make_node):
    """A call under way to an old address is given up, and no complaint is made of it."""
    a = make_node("a", roster=("a", "b"))
    network.pass_s(2)
    assert network.calls > 1
    make_node("b", roster=("a", "b"))
    a.links.follow({"b": "nowhere"})
    network.pass_s(2)
    assert not a.links.connected
    a.links.follow({"b": "b"})
    network.settle()
    assert set(a.links.connected) == {"b"}


def test_members_may_be_named_before_the_start_and_while_stopped(network, make_node, trio):
    """Nothing is called until the service runs; then whoever was named last."""
    a = trio["a"]
    stopped = a.links.stopService()
    network.pass_s(2)
    assert stopped.called
    network.calls = 0
    a.links.follow({"b": "b"})
    network.pass_s(5)
    assert network.calls == 0
    a.links.startService()
    network.pass_s(1)
    assert set(a.links.connected) == {"b"}
    assert network.calls == 1


def test_the_same_members_again_change_nothing(network, trio):
    """The engine may say the same as often as it likes."""
    a = trio["a"]
    before = list(a.heard.heard)
    for _ in range(3):
        a.links.follow(dict(reversed(ABC.items())))
    network.pass_s(2)
    assert a.heard.heard == before
    assert sum(not wire.gone for wire in network.wires) == 6


def test_a_member_gone_and_back_in_one_turn_is_linked_anew(network, trio):
    """The listener hears of the end before it hears of the beginning."""
    a = trio["a"]
    a.links.follow({"b": "b"})
    a.links.follow({"b": "b", "c": "c"})
    network.pass_s(2)
    assert a.heard.kinds()[-2:] == [("disconnected", "c"), ("connected", "c")]
    assert set(a.links.connected) == {"b", "c"}
    assert set(trio["c"].links.connected) == {"a", "b"}


def test_an_address_that_is_none_is_a_peer_that_never_answers(network, trio, logged):
    """What the log says is not this node's to refuse: the others stay linked, the log tells."""
    a = trio["a"]

    def dial(address):
        if ":" not in address:
            raise ValueError("no port")
        return network.endpoint("a", address)

    a.links._dial = dial
    a.links.follow({"b": "b", "c": "c", "d": "nonsense"})
    network.pass_s(10)
    assert set(a.links.connected) == {"b", "c"}
    told = [text for text in logged if "no link with d" in text]
    assert told == ["no link with d: cannot connect: 'nonsense' is no address: no port"]


@pytest.mark.parametrize("moment", ["peer_connected", "peer_disconnected", "peer_message"])
@pytest.mark.parametrize("peers", [{}, {"b": "b"}, {"c": "c"}, {"b": "b", "c": "elsewhere"}])
def test_members_may_change_while_the_listener_hears_something(
    network, make_node, trio, moment, peers
):
    """The engine applies a change of members in the middle of anything that it is told."""
    a = trio["a"]
    hear, done = getattr(a.heard, moment), []

    def change(*what):
        hear(*what)
        if not done:
            done.append(what)
            a.links.follow(peers)

    setattr(a.heard, moment, change)
    assert trio["c"].send("a", TimeoutNow(1))
    assert trio["c"].send("a", TimeoutNow(2))
    network.settle()
    trio["c"].links.disconnect("a", "to begin anew")
    network.pass_s(3)
    assert done
    assert set(a.links.connected) == {name for name, at in peers.items() if at == name}
    for name in "bc":
        kinds = [kind for kind, peer in a.heard.kinds() if peer == name and kind != "message"]
        assert kinds[::2] == ["connected"] * len(kinds[::2])
        assert kinds[1::2] == ["disconnected"] * len(kinds[1::2])


def test_a_replaced_link_may_end_the_newer_one(network, trio, make_hello):
    """The listener hears that the older link is gone, and expels the peer: the newer ends too."""
    b = trio["b"]
    hear = b.heard.peer_disconnected

    def expel(*what):
        hear(*what)
        b.links.follow({"c": "c"})

    b.heard.peer_disconnected = expel
    again = Silent()
    network.join(Just(again), "a", network.factories["b"], "b")
    network.settle()
    again.transport.write(encode_frame(encode_hello(make_hello("a"))))
    network.settle()
    assert again.transport.gone
    assert set(b.links.connected) == {"c"}
    assert b.heard.kinds()[2:] == [("disconnected", "a")]


def test_what_is_remembered_of_members_that_left_is_bounded(network, make_node):
    """A hundred nodes that came and went leave nothing behind."""
    a = make_node("a", roster=("a",))
    for number in range(100):
        a.links.follow({f"n{number}": "nowhere"})
        network.pass_s(1)
    a.links.follow({})
    network.settle()
    assert not a.links._said
    assert not a.links._dialers
    assert not [call for call in network.clock.getDelayedCalls() if "Dialer" in str(call)]


memberships = st.dictionaries(
    st.sampled_from("abcde"), st.sampled_from(["abcde", "elsewhere"]), max_size=5
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(memberships, st.integers(0, 8)), max_size=6))
def test_whatever_the_changes_the_links_are_those_of_the_last(changes):
    """After any history of members, in any timing, exactly the last ones that answer are linked."""
    network = Network()
    roster = tuple("abcde")
    nodes = {name: Node(network, name, roster=roster) for name in roster}
    for node in nodes.values():
        node.links.startService()
    c = nodes["c"]
    named = dict.fromkeys(roster, "abcde")
    for named, turns in changes:
        c.links.follow({name: name if where == "abcde" else where for name, where in named.items()})
        for _ in range(turns):
            network.clock.advance(0)
    network.pass_s(4)
    # Those below c call it, wherever c believes them to be.
    expected = {name for name, where in named.items() if where == "abcde" or name < "c"} - {"c"}
    assert set(c.links.connected) == expected
    for name in expected:
        assert "c" in nodes[name].links.connected
    assert len(c.links._links) == len(expected)
    told = [event for event in c.heard.kinds() if event[1] in expected]
    assert {name: kind for kind, name in told} == dict.fromkeys(expected, "connected")
