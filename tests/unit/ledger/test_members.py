"""Who is a member and who votes, one change at a time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.command import MEMBERS_MAX, Accept, Define, Demote, Enroll, Expel, OpenSession, Promote
from crowd.ledger import MemberState
from tests.unit.ledger.history import History, route

JOURNALS = (b"1" * 16, b"2" * 16)


def change(history: History, kind, *fields) -> bool:
    """Apply a change by a proposer who saw the last one; return whether it had an effect."""
    before = history.ledger.members_index
    index = history.apply(kind(*fields, before))
    assert history.ledger.members_index in {before, index}
    return history.ledger.members_index == index


def test_a_newcomer_learns_then_votes_then_learns_and_leaves():
    history = History()
    members = history.ledger.members
    assert change(history, Enroll, "d", "d:2104")
    joined = history.ledger.members_index
    assert members["d"] == MemberState("d:2104", b"", joined)
    assert not members["d"].votes
    assert change(history, Promote, "d", JOURNALS[0])
    assert members["d"] == MemberState("d:2104", JOURNALS[0], joined)
    assert members["d"].votes
    assert change(history, Demote, "d")
    assert members["d"] == MemberState("d:2104", b"", joined)
    assert change(history, Expel, "d")
    assert "d" not in members


def test_a_member_moves_and_keeps_its_vote():
    history = History()
    joined = history.ledger.members_index
    assert change(history, Enroll, "a", "elsewhere:2104")
    assert history.ledger.members["a"] == MemberState("elsewhere:2104", b"a" * 16, joined)


def test_a_change_overtaken_by_another_has_no_effect():
    history = History()
    seen = history.ledger.members_index
    history.apply(Enroll("d", "d:2104", seen))
    before = history.ledger.state()[3]
    for command in (
        Enroll("e", "e:2104", seen),
        Promote("d", JOURNALS[0], seen),
        Demote("a", seen),
        Expel("a", seen),
        Expel("a", history.ledger.applied_index + 1),
    ):
        history.apply(command)
    assert history.ledger.state()[3] == before


def test_what_is_so_already_is_no_change():
    history = History()
    assert not change(history, Enroll, "a", "a:2104")
    assert not change(history, Promote, "a", b"a" * 16)
    assert change(history, Demote, "a")
    assert not change(history, Demote, "a")


def test_a_voter_gets_no_other_journal_before_it_was_demoted():
    """D14: the old journal's vote and the new one's would be two changes at once."""
    history = History()
    assert not change(history, Promote, "a", JOURNALS[0])
    assert change(history, Demote, "a")
    assert change(history, Promote, "a", JOURNALS[0])


def test_a_stranger_is_not_promoted_demoted_or_expelled():
    history = History()
    assert not change(history, Promote, "z", JOURNALS[0])
    assert not change(history, Demote, "z")
    assert not change(history, Expel, "z")


def test_the_last_voter_stays():
    history = History()
    assert change(history, Expel, "c")
    assert change(history, Demote, "b")
    assert not change(history, Demote, "a")
    assert not change(history, Expel, "a")
    assert change(history, Promote, "b", JOURNALS[0])
    assert change(history, Expel, "a")


def test_there_are_at_most_so_many_members():
    history = History()
    added = [change(history, Enroll, f"m{n}", "m:2104") for n in range(MEMBERS_MAX)]
    assert added == [True] * (MEMBERS_MAX - 3) + [False] * 3
    assert change(history, Enroll, "m0", "moved:2104")
    assert change(history, Expel, "m1")
    assert change(history, Enroll, "another", "m:2104")


def test_an_expelled_members_sessions_and_file_go_with_it():
    history = History()
    history.define(route("/x"), node="b")
    session, other = history.open("b"), history.open("a")
    history.accept(session, 1)
    assert change(history, Expel, "b")
    ledger = history.ledger
    assert "b" not in ledger.file_hashes
    assert not ledger.session_is_open(session)
    assert ledger.session_of("b", b"n" * 16) is None
    history.accept(session, 1)
    assert (ledger.tip, ledger.refused) == (1, 1)
    history.apply(OpenSession("b", b"m" * 16))
    history.apply(Define("b", bytes(32), (route("/y"),), ()))
    assert ledger.session_of("b", b"m" * 16) is None
    assert ledger.route_id("/y") is None
    assert ledger.session_is_open(other)
    # One that comes back under its name begins anew.
    assert change(history, Enroll, "b", "b:2104")
    assert ledger.session_is_open(history.open("b"))


def test_a_learner_takes_messages_and_brings_its_file():
    history = History()
    assert change(history, Enroll, "d", "d:2104")
    history.define(route("/x"), node="d")
    history.apply(Accept(history.open("d"), 1, 1, (1,), (b"",)))
    assert history.ledger.tip == 1


NAME = st.sampled_from("abcd")
CHANGE = st.one_of(
    st.tuples(st.just(Enroll), NAME, st.sampled_from(["x:1", "y:1"])),
    st.tuples(st.just(Promote), NAME, st.sampled_from(JOURNALS)),
    st.tuples(st.just(Demote), NAME),
    st.tuples(st.just(Expel), NAME),
)


@settings(deadline=None)
@given(st.lists(st.tuples(CHANGE, st.booleans()), max_size=30))
def test_the_members_are_what_a_dictionary_of_them_would_be(changes):
    history = History()
    model = {name: (f"{name}:2104", name.encode() * 16) for name in "abc"}
    last = history.ledger.members_index
    for (kind, name, *rest), is_late in changes:
        index = history.apply(kind(name, *rest, last - 1 if is_late else last))
        known, after = model.get(name), dict(model)
        if kind is Enroll:
            after[name] = (rest[0], known[1] if known else b"")
        elif kind is Promote and known and not known[1]:
            after[name] = (known[0], rest[0])
        elif kind is Demote and known:
            after[name] = (known[0], b"")
        elif kind is Expel:
            after.pop(name, None)
        if not is_late and after != model and any(journal for _, journal in after.values()):
            model, last = after, index
        assert history.ledger.members_index == last
        assert {n: (m.address, m.journal_id) for n, m in history.ledger.members.items()} == model
