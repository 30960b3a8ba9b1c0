"""Who founds, who votes, who must wait: decided from journal ids alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowd.errors import DamagedError, MalformedError
from crowd.raft.membership import Membership, Standing, decode_roster, encode_roster

ID = {name: name.encode() * 16 for name in "abcd"}
ROSTER = {name: ID[name] for name in "abc"}


def member(name, memory=b""):
    return Membership("leads", name, ID[name], [other for other in "abc" if other != name], memory)


def test_only_the_first_name_founds_and_only_with_everyone_empty():
    a, b = member("a"), member("b")
    for one, others in ((a, "bc"), (b, "ac")):
        for name in others:
            assert not one.found()
            assert not one.arrived(name, ID[name], b"", empty=True)
    assert not b.found()
    assert a.found()
    assert a.roster == ROSTER
    assert a.standing is Standing.VOTER


def test_nobody_founds_while_one_holds_entries():
    a = member("a")
    a.arrived("b", ID["b"], b"", empty=True)
    a.arrived("c", ID["c"], b"", empty=False)
    assert not a.found()


def test_nobody_founds_once_one_has_left():
    a = member("a")
    a.arrived("b", ID["b"], b"", empty=True)
    a.arrived("c", ID["c"], b"", empty=True)
    a.left("b")
    assert not a.found()


def test_the_others_take_the_roster_from_the_hello():
    b = member("b")
    assert b.arrived("a", ID["a"], encode_roster("leads", ROSTER), empty=True)
    assert b.standing is Standing.VOTER
    assert b.is_voter("a")
    assert not b.is_voter("c")  # it is not here to show its journal


def test_a_new_journal_under_an_old_name_is_a_learner_until_readmitted():
    wiped = Membership("leads", "b", ID["d"], "ac", b"")
    assert wiped.arrived("a", ID["a"], encode_roster("leads", ROSTER), empty=False)
    assert wiped.standing is Standing.LEARNER
    a = member("a", encode_roster("leads", ROSTER))
    a.arrived("b", ID["d"], b"", empty=True)
    assert not a.is_voter("b")
    assert a.learners() == [("b", ID["d"])]
    for one in (a, wiped):
        one.readmitted("b", ID["d"])
        assert one.is_voter("b")
    assert a.learners() == []


def test_what_a_node_remembers_survives_a_restart():
    a = member("a", encode_roster("leads", ROSTER))
    assert a.standing is Standing.VOTER
    assert a.memory == encode_roster("leads", ROSTER)
    assert not a.found()


def test_a_damaged_memory_is_said_to_be():
    with pytest.raises(DamagedError, match="record of members"):
        member("a", b"\xff")


@given(st.binary(max_size=200))
def test_a_roster_decodes_or_is_malformed(data):
    try:
        decode_roster("leads", data)
    except MalformedError:
        pass


def test_a_roster_of_another_cluster_is_refused():
    with pytest.raises(MalformedError, match="cluster 'other', expected 'leads'"):
        decode_roster("leads", encode_roster("other", ROSTER))
