"""Members that come and go: links follow whoever is named, at any time."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.raft.frames import encode_frame
from crowd.raft.links import COMPLAINTS_MAX
from crowd.raft.wire import TimeoutNow, encode_hello
from tests.unit.peers.network import Just, Network, Node, Silent, hello_of

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
            node.follow(peers)

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
    """The node that joins may be the one that calls: it is refused until it is a member."""
    node = make_node("0", roster=("0", "a", "b", "c"))
    network.pass_s(3)
    assert not node.links.connected
    enroll(trio.values(), {**ABC, "0": "0"}, 7)
    network.pass_s(3)
    assert set(node.links.connected) == set("abc")


def test_who_became_a_member_during_the_handshake_is_let_in(network, make_node, make_hello):
    """Who the members are is asked when the hello has come."""
    b = make_node("b", roster=("b", "c"))
    a = make_node("a", roster=("a", "b", "c"))  # its connection is made, its handshake to come
    b.hello = make_hello("b", roster_index=3)
    b.follow(ABC)
    network.settle()
    assert set(a.links.connected) == {"b"}


@pytest.mark.parametrize("newcomer", ["0", "d"])
def test_a_newcomer_reaches_a_member_that_missed_its_enrolment(
    network, trio, make_node, make_hello, enroll, newcomer
):
    """The one that joined later dials; its newer members let it in before it is known there."""
    b, members = trio["b"], {**ABC, newcomer: newcomer}
    enroll([trio["a"], trio["c"]], members, 7)
    node = make_node(newcomer, hello=make_hello(newcomer, sorted(members), roster_index=7))
    node.follow(members, dialled="abc")
    network.pass_s(1)
    assert set(node.links.connected) == set("abc")
    assert b.heard.kinds()[-1] == ("connected", newcomer)
    assert b.send(newcomer, TimeoutNow(1))
    assert node.send("b", TimeoutNow(2))
    network.settle()
    assert b.heard.messages() == [TimeoutNow(2)]
    heard, network.calls = len(b.heard.heard), 0
    enroll([b], members, 7)
    b.follow(members, dialled="c" if newcomer > "c" else ("0", "c"))
    network.pass_s(5)
    assert len(b.heard.heard) == heard, "the link stays when its peer becomes known"
    assert network.calls == 0


def test_a_link_with_who_is_not_known_yet_outlives_other_changes(
    network, trio, make_node, make_hello
):
    """It ends when its name was a member and is none any more, not while it was none yet."""
    b = trio["b"]
    d = make_node("d", hello=make_hello("d", "abcd", roster_index=7))
    network.settle()
    d.follow(ABCD, dialled="abc")
    network.settle()
    b.follow({"a": "a"})
    network.settle()
    assert set(b.links.connected) == {"a", "d"}
    b.follow({"a": "a", "d": "d"})
    b.follow({"a": "a"})
    network.settle()
    assert set(b.links.connected) == {"a"}
    assert b.heard.heard[-1] == ("disconnected", "d", "is no member any more")


def test_a_peer_that_is_not_dialled_any_more_keeps_its_link(network, trio):
    """Who dials is about the next connection; the one that is there serves."""
    a, c = trio["a"], trio["c"]
    before = list(a.heard.heard)
    network.calls = 0
    a.follow(ABC, dialled="b")
    c.follow(ABC, dialled="a")
    network.pass_s(5)
    a.follow(ABC, dialled="bc")
    c.follow(ABC, dialled="")
    network.pass_s(5)
    assert a.heard.heard == before
    assert network.calls == 0


@pytest.mark.parametrize("ends", ["a", "c"])
def test_who_dials_now_calls_when_the_old_link_is_lost(network, trio, ends):
    """Whoever made the lost link: the one that is to dial meanwhile calls, the other one waits."""
    a, c = trio["a"], trio["c"]
    network.down.add("c")
    a.follow(ABC, dialled="b")
    c.follow(ABC, dialled="a")
    trio[ends].links.disconnect("c" if ends == "a" else "a", "to begin anew")
    network.calls = 0
    network.pass_s(1)
    assert network.calls == 1
    assert "c" in a.links.connected
    assert a.wire_to("c").protocol.called is None


def test_a_call_under_way_to_who_is_not_dialled_any_more_is_given_up(network, make_node):
    """And none is due."""
    a = make_node("a")
    network.pass_s(2)
    a.follow(ABC, dialled="")
    network.calls = 0
    network.pass_s(5)
    assert network.calls == 0
    a.follow(ABC, dialled="c")
    assert network.calls == 1


def test_two_that_dial_each_other_come_to_one_link(network, make_node):
    """Neither may know what the other knows; whichever link opens, the other side calls no more."""
    a, b = make_node("a"), make_node("b")
    a.follow({"b": "b"}, dialled="b")
    b.follow({"a": "a"}, dialled="a")
    network.pass_s(3)
    for _ in range(2):
        heard, network.calls = len(a.heard.heard), 0
        network.pass_s(30)
        assert network.calls == 0
        assert len(a.heard.heard) == heard
        assert set(a.links.connected) == {"b"}
        assert set(b.links.connected) == {"a"}
        a.links.disconnect("b", "to begin anew")
        network.pass_s(3)


def test_a_peer_that_calls_meanwhile_is_not_called_when_that_was_due(network, make_node):
    """It was away, and calls first when it is back: its link serves, and is not replaced."""
    a = make_node("a", roster=("a", "b"))
    network.pass_s(10)
    b = make_node("b", roster=("a", "b"))
    b.follow({"a": "a"}, dialled="a")
    network.settle()
    assert set(a.links.connected) == {"b"}
    network.pass_s(10)
    assert a.heard.heard == [("connected", "b")]


def test_who_says_hello_anew_is_heard_although_another_link_was_being_made(network, make_node):
    """Both called: on the link that would stay, the older hello was said already."""
    a, b = make_node("a"), make_node("b")
    a.follow({"b": "b"}, dialled="b")
    b.follow({"a": "a"}, dialled="a")
    slow = network.wires[-2]
    assert slow.protocol.called == "a"
    slow.stuck = slow.other.stuck = True
    network.pass_s(0.5)
    assert set(a.links.connected) == {"b"}
    a.hello = msgspec.structs.replace(a.hello, founding=b"founded")
    a.links.disconnect("b", "the cluster is founded, and says hello again")
    for wire in (slow, slow.other):
        wire.stuck = False
        wire.flush()
    network.pass_s(5)
    assert b.links.connected["a"].founding == b"founded"


def test_two_whose_calls_cross_come_to_one_link(network, make_node):
    """Each may drop the other's connection for its own; chance lets one of them be first."""
    a, b = make_node("a"), make_node("b")
    a.links._chance, b.links._chance = (lambda: 0.9), (lambda: 0.1)
    a.follow({}, dialled="")
    network.settle()
    a.follow({"b": "b"}, dialled="b")
    b.follow({"a": "a"}, dialled="a")
    network.pass_s(5)
    heard, network.calls = len(a.heard.heard), 0
    network.pass_s(10)
    assert network.calls == 0
    assert len(a.heard.heard) == heard
    assert set(a.links.connected) == {"b"}
    assert set(b.links.connected) == {"a"}


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
    trio[gone].follow({})
    network.settle()
    network.calls = 0
    network.pass_s(30)
    assert network.calls == 0
    assert all(set(node.links.connected) == rest.keys() - {name} for name, node in rest.items())


def test_who_was_expelled_and_does_not_know_it_is_refused_with_words(network, trio, enroll, logged):
    """It still calls; its certificate is good and its hello is not: its members are older."""
    a = trio["a"]
    enroll([trio["b"], trio["c"]], {"b": "b", "c": "c"}, 7)
    network.pass_s(3)
    assert not a.links.connected
    assert any("a is not among the members 'b c'" in text for text in logged)
    assert set(trio["b"].links.connected) == {"c"}


def test_what_was_sent_before_a_member_is_gone_still_goes_out(network, trio):
    """The member that leaves is told so by the last message, not by a cut."""
    a, c = trio["a"], trio["c"]
    assert a.send("c", TimeoutNow(5))
    a.follow({"b": "b"})
    network.settle()
    assert c.heard.messages() == [TimeoutNow(5)]
    assert c.heard.kinds()[-1] == ("disconnected", "a")


def test_a_member_that_does_not_read_is_gone_nevertheless(network, trio):
    """A full connection is aborted a second later."""
    a = trio["a"]
    a.wire_to("c").stuck = True
    a.follow({"b": "b"})
    network.pass_s(2)
    assert a.heard.kinds()[-1] == ("disconnected", "c")
    assert a.wire_to("c").gone


def test_a_stranger_that_is_expelled_before_its_hello_is_closed(network, trio, make_hello):
    """Proved is not greeted: a link that is not open yet ends like the others."""
    b = trio["b"]
    a = trio["a"]
    a.follow({})
    network.settle()
    network.down.add("b")
    late = Silent()
    network.join(Just(late), "a", network.factories["b"], "b")
    network.settle()
    b.follow({"c": "c"})
    late.transport.write(encode_frame(encode_hello(make_hello("a"))))
    network.settle()
    assert late.transport.gone
    assert set(b.links.connected) == {"c"}


def test_a_peer_that_moved_is_dialled_anew(network, trio, make_node):
    """The old link ends, the new address is called at once, the old one never again."""
    a, c = trio["a"], trio["c"]
    network.factories["elsewhere"] = network.factories.pop("c")
    network.claims["elsewhere"] = "c"
    a.follow({"b": "b", "c": "elsewhere"})
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
    b.follow({"a": "elsewhere", "c": "c"})
    network.pass_s(5)
    assert b.heard.heard == before


def test_a_peer_that_moved_while_it_was_called(network, make_node):
    """A call under way to an old address is given up, and no complaint is made of it."""
    a = make_node("a", roster=("a", "b"))
    network.pass_s(2)
    assert network.calls > 1
    make_node("b", roster=("a", "b"))
    a.follow({"b": "nowhere"})
    network.pass_s(2)
    assert not a.links.connected
    a.follow({"b": "b"})
    network.settle()
    assert set(a.links.connected) == {"b"}


def test_members_may_be_named_before_the_start_and_while_stopped(network, make_node, trio):
    """Nothing is called until the service runs; then whoever was named last."""
    a = trio["a"]
    stopped = a.links.stopService()
    network.pass_s(2)
    assert stopped.called
    network.calls = 0
    a.follow({"b": "b"})
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
        a.follow(dict(reversed(ABC.items())))
    network.pass_s(2)
    assert a.heard.heard == before
    assert sum(not wire.gone for wire in network.wires) == 6


def test_a_member_gone_and_back_in_one_turn_is_linked_anew(network, trio):
    """The listener hears of the end before it hears of the beginning."""
    a = trio["a"]
    a.follow({"b": "b"})
    a.follow({"b": "b", "c": "c"})
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
    a.follow({"b": "b", "c": "c", "d": "nonsense"})
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
            a.follow(peers)

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
        b.follow({"c": "c"})

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
        a.follow({f"n{number}": "nowhere"})
        network.pass_s(1)
    a.follow({})
    network.settle()
    assert not a.links._said
    assert not a.links._dialers
    for number in range(100):
        network.join(Just(Silent()), f"s{number}", network.factories["a"], "a")
    network.pass_s(10)
    assert len(a.links._said) == COMPLAINTS_MAX
    assert not [call for call in network.clock.getDelayedCalls() if "Dialer" in str(call)]


memberships = st.dictionaries(
    st.sampled_from("abcde"), st.sampled_from(["abcde", "elsewhere"]), max_size=5
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(memberships, st.sets(st.sampled_from("abde")), st.integers(0, 8)), max_size=6
    )
)
def test_whatever_the_changes_the_links_are_those_of_the_last(changes):
    """After any history of members, in any timing, exactly the last ones that answer are linked."""
    network = Network()
    roster = tuple("abcde")
    nodes = {name: Node(network, name, roster=roster) for name in roster}
    for node in nodes.values():
        node.links.startService()
    c = nodes["c"]
    named = dict.fromkeys(roster, "abcde")
    for index, (named, dialled, turns) in enumerate(changes, 1):
        c.hello = hello_of("c", sorted({*named, "c"}), roster_index=index)
        peers = {name: name if where == "abcde" else where for name, where in named.items()}
        c.follow(peers, dialled | {"d", "e"})
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


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.integers(0, 8)), max_size=8),
    st.sampled_from(["a", "b", "ab"]),
    st.randoms(use_true_random=False),
)
def test_whoever_dials_two_nodes_come_to_one_link_that_stays(changes, dials, chance):
    """After any history of who dials whom, in any timing, while at least one of the two does."""
    network = Network()
    nodes = {name: Node(network, name, roster=("a", "b")) for name in "ab"}
    for node in nodes.values():
        node.links._chance = chance.random
        node.links.startService()
    last = [(name, name in dials, 0) for name in "ab"]
    for name, calls, turns in [*changes, *last]:
        other = "b" if name == "a" else "a"
        nodes[name].follow({other: other}, dialled=other if calls else "")
        for _ in range(turns):
            network.clock.advance(0)
    network.pass_s(15)
    heard, network.calls = {name: len(node.heard.heard) for name, node in nodes.items()}, 0
    network.pass_s(5)
    assert network.calls == 0
    for name, node in nodes.items():
        assert len(node.links.connected) == len(node.links._links) == 1
        assert len(node.heard.heard) == heard[name]
