"""Who founds, who votes, who must wait, and what changes next: decided from rosters and ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.command import FORMAT, Demote, Promote
from crowd.errors import DamagedError, MalformedError
from crowd.raft.membership import Membership, Roster, Seat, Standing, decode_roster, encode_roster
from crowd.raft.wire import PROTOCOL, Hello

ID = {name: name.encode() * 16 for name in "abcd"}
FILE = {name: f"{name}.example:2107" for name in "abc"}


def seat(name, *, votes=True, journal_id=None, since=0):
    return Seat(name, FILE.get(name, ""), (journal_id or ID[name]) if votes else b"", since)


ROSTER = Roster(0, 0, tuple(seat(name) for name in "abc"))


def member(name, memory=b"", *, journal_id=None):
    return Membership("leads", name, journal_id or ID[name], FILE, memory)


def hello(name, founding=b"", *, empty=True, journal_id=None):
    return Hello(
        protocol=PROTOCOL, format=FORMAT, cluster="leads", node=name,
        journal_id=journal_id or ID[name], roster=("a", "b", "c"), roster_index=0,
        founding=founding, empty=empty,
    )  # fmt: skip


def born(name, roster=ROSTER, *, present="abc", journal_id=None):
    """Return a member that remembers `roster`; those of `present` are connected."""
    made = member(name, encode_roster("leads", roster), journal_id=journal_id)
    for other in present:
        if other != name:
            made.arrived(other, hello(other, empty=False))
    return made


# --- Founding ---------------------------------------------------------------------------------


def test_only_the_first_name_founds_and_only_with_everyone_empty():
    a, b = member("a"), member("b")
    for one, others in ((a, "bc"), (b, "ac")):
        for name in others:
            assert not one.found()
            assert not one.arrived(name, hello(name))
    assert not b.found()
    assert a.found()
    assert a.memory == encode_roster("leads", ROSTER)


def test_who_founds_counts_by_the_roster_only_when_it_is_durable():
    a = member("a")
    a.arrived("b", hello("b"))
    a.arrived("c", hello("c"))
    a.found()
    assert a.standing is Standing.UNBORN
    assert not a.voters
    a.remembered()
    assert (a.roster, a.standing) == (ROSTER, Standing.VOTER)


def test_nobody_founds_while_one_holds_entries():
    a = member("a")
    a.arrived("b", hello("b"))
    a.arrived("c", hello("c", empty=False))
    assert not a.found()


def test_nobody_founds_once_one_has_left():
    a = member("a")
    a.arrived("b", hello("b"))
    a.arrived("c", hello("c"))
    a.left("b")
    assert not a.found()


def test_a_node_without_peers_founds_at_once():
    alone = Membership("leads", "a", ID["a"], {}, b"")
    assert alone.found()
    alone.remembered()
    assert alone.standing is Standing.VOTER
    assert alone.followers == frozenset()


def test_the_others_take_the_roster_from_the_hello():
    b = member("b")
    assert b.arrived("a", hello("a", encode_roster("leads", ROSTER)))
    assert b.standing is Standing.UNBORN
    b.remembered()
    assert b.standing is Standing.VOTER
    assert b.is_voter("a")
    assert not b.is_voter("c")  # it is not here to show its journal


def test_a_hello_with_a_roster_of_another_cluster_is_refused():
    with pytest.raises(MalformedError, match="cluster 'other', expected 'leads'"):
        member("b").arrived("a", hello("a", encode_roster("other", ROSTER)))


def test_who_has_a_roster_takes_none_from_a_hello():
    """What is newer comes through the log, where it is committed."""
    b = born("b")
    newer = Roster(9, 0, ROSTER.seats[1:])
    assert not b.arrived("a", hello("a", encode_roster("leads", newer)))
    b.remembered()
    assert b.roster == ROSTER


# --- Who counts -------------------------------------------------------------------------------


def test_d8_a_new_journal_under_an_old_name_is_a_learner_until_promoted():
    wiped = member("b", journal_id=ID["d"])
    wiped.arrived("a", hello("a", encode_roster("leads", ROSTER), empty=False))
    wiped.remembered()
    assert wiped.standing is Standing.LEARNER
    a = born("a", present="c")
    a.arrived("b", hello("b", journal_id=ID["d"]))
    assert not a.is_voter("b")
    assert "b" in a.voters  # as many as before are needed, and it is none of them
    promoted = Roster(9, 0, (seat("a"), seat("b", journal_id=ID["d"]), seat("c")))
    for one in (a, wiped):
        assert one.follow(promoted)
        one.remembered()
        assert one.is_voter("b")
    assert wiped.standing is Standing.VOTER


def test_who_is_not_connected_does_not_count():
    a = born("a")
    assert a.is_voter("b")
    a.left("b")
    assert not a.is_voter("b")
    assert not a.is_present("b")
    assert a.is_present("a")


def test_who_is_not_in_the_roster_is_an_outsider():
    d = Membership("leads", "d", ID["d"], {**FILE, "d": "d.example:2107"}, b"")
    d.arrived("a", hello("a", encode_roster("leads", ROSTER), empty=False))
    d.remembered()
    assert d.standing is Standing.OUTSIDER
    assert not d.is_voter("d")
    assert d.names == ("a", "b", "c", "d")
    assert d.addresses == FILE


def test_who_was_expelled_is_an_outsider():
    c = born("c")
    assert c.follow(Roster(9, 0, (seat("a"), seat("b"))))
    c.remembered()
    assert c.standing is Standing.OUTSIDER
    assert not c.is_voter("c")


def test_a_roster_that_is_no_news_changes_nothing():
    a = born("a", Roster(9, 0, ROSTER.seats))
    assert not a.follow(Roster(9, 0, ROSTER.seats[:1]))
    assert not a.follow(Roster(8, 0, ROSTER.seats[:1]))
    a.remembered()
    assert a.voters == {"a", "b", "c"}


def test_a_nodes_own_file_says_where_a_member_is_before_the_roster_does():
    moved = Roster(
        9, 0, (seat("a"), Seat("b", "elsewhere:1", ID["b"], 0), Seat("d", "d:1", b"", 9))
    )
    a = born("a", moved)
    assert a.addresses == {"b": FILE["b"], "d": "d:1"}


def test_what_a_node_remembers_survives_a_restart():
    a = member("a", encode_roster("leads", ROSTER))
    assert a.standing is Standing.VOTER
    assert a.memory == encode_roster("leads", ROSTER)
    assert not a.found()


def test_a_damaged_memory_is_said_to_be():
    with pytest.raises(DamagedError, match="record of members"):
        member("a", b"\xff")


# --- Who calls whom ---------------------------------------------------------------------------


def test_who_has_nothing_yet_calls_everybody_in_its_file():
    """The others may be members long since, and not call who comes back empty."""
    assert [member(name).dialled for name in "abc"] == [{"b", "c"}, {"a", "c"}, {"a", "b"}]


def test_of_any_two_voters_one_calls_the_other():
    seats = (seat("a", since=9), seat("b"), seat("c"), Seat("d", "d:1", ID["d"], 12))
    roster = Roster(12, 0, seats)
    calls = {one: born(one, roster).dialled for one in "abcd"}
    for one in "abcd":
        for two in "abcd":
            if one < two:
                assert (two in calls[one]) != (one in calls[two])


def test_who_joined_later_calls_those_that_were_there():
    """They may not have heard of it yet."""
    roster = Roster(12, 0, (seat("a", since=9), seat("b"), seat("c")))
    assert born("a", roster).dialled == {"b", "c"}
    assert born("b", roster).dialled == {"c"}


def test_a_learner_is_called_by_all():
    """It may not know that it was enrolled."""
    roster = Roster(12, 0, (seat("a"), seat("b"), Seat("d", "d:1", b"", 12)))
    assert "d" in born("a", roster).dialled
    assert "d" in born("b", roster).dialled


def test_who_was_expelled_calls_everybody():
    """Whoever knows of it says so."""
    assert born("c", Roster(9, 0, (seat("a"), seat("b")))).dialled == {"a", "b"}


# --- What changes next ------------------------------------------------------------------------


def caught_up(*names):
    return lambda name: name in names


def test_nothing_changes_while_all_have_their_journals():
    assert born("a").next_change(caught_up("a", "b", "c")) is None


def test_a_voter_with_another_journal_is_demoted_and_then_promoted():
    a = born("a", Roster(5, 0, ROSTER.seats), present="c")
    a.arrived("b", hello("b", journal_id=ID["d"]))
    assert a.next_change(caught_up("b")) == Demote(name="b", after=5)
    a.follow(Roster(9, 0, (seat("a"), seat("b", votes=False), seat("c"))))
    a.remembered()
    assert a.next_change(caught_up("b")) == Promote(name="b", journal_id=ID["d"], after=9)
    a.follow(Roster(11, 0, (seat("a"), seat("b", journal_id=ID["d"]), seat("c"))))
    a.remembered()
    assert a.next_change(caught_up("b")) is None


def test_who_has_not_everything_stays_what_it_is():
    a = born("a", Roster(9, 0, (seat("a"), seat("b"), seat("c"), seat("d", votes=False))))
    a.arrived("d", hello("d"))
    assert a.next_change(caught_up("b", "c")) is None
    assert a.next_change(caught_up("d")) == Promote(name="d", journal_id=ID["d"], after=9)


def test_a_learner_that_is_not_there_is_not_promoted():
    a = born("a", Roster(9, 0, (seat("a"), seat("b"), seat("d", votes=False))))
    assert a.next_change(lambda _: True) is None


def test_of_two_changes_one_is_next():
    a = born("a", Roster(9, 0, (seat("a"), seat("b"), seat("c", votes=False))), present="")
    a.arrived("b", hello("b", journal_id=ID["d"]))
    a.arrived("c", hello("c"))
    assert a.next_change(lambda _: True) == Demote(name="b", after=9)


def test_nobody_is_demoted_before_the_birth_is_applied():
    """A change names the one before it; there is none, and such an entry would end every node."""
    a = born("a", ROSTER, present="")
    a.arrived("b", hello("b", journal_id=ID["d"]))
    assert ROSTER.index == 0
    assert a.next_change(lambda _: True) is None


# --- The durable form ---------------------------------------------------------------------------

seats = st.builds(
    Seat,
    st.text(min_size=1, max_size=8),
    st.text(max_size=20),
    st.sampled_from([b"", *ID.values()]),
    st.integers(0, 2**53),
)
rosters = st.builds(
    Roster,
    st.integers(0, 2**53),
    st.integers(0, 2**53),
    st.lists(seats, max_size=6, unique_by=lambda one: one.name).map(
        lambda found: tuple(sorted(found, key=lambda one: one.name))
    ),
)


@given(rosters)
def test_a_roster_reads_back_as_it_was(roster):
    assert decode_roster("leads", encode_roster("leads", roster)) == roster


def decodes_or_is_malformed(data):
    try:
        found = decode_roster("leads", data)
    except MalformedError:
        return
    assert decode_roster("leads", encode_roster("leads", found)) == found


@given(st.binary(max_size=200))
def test_bytes_are_a_roster_or_malformed(data):
    decodes_or_is_malformed(data)


@given(rosters, st.data())
def test_a_roster_with_other_bytes_in_it_is_one_or_malformed(roster, data):
    encoded = bytearray(encode_roster("leads", roster))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(encoded)))
        encoded[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    decodes_or_is_malformed(bytes(encoded))


def test_a_roster_of_another_cluster_is_refused():
    with pytest.raises(MalformedError, match="cluster 'other', expected 'leads'"):
        decode_roster("leads", encode_roster("other", ROSTER))
