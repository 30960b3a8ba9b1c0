"""`crowd status` puts what nodes say side by side, and says who leads."""

from __future__ import annotations

import pytest

from crowd.errors import ConfigurationError
from crowd.tools.init import ClusterPlan, write_cluster
from crowd.tools.status import admin_addresses, admin_url, ask, gather, status_lines


def node(name, role="follower", term=3, **more):
    return {
        "admin": f"http://{name}",
        "name": name,
        "role": role,
        "term": term,
        "commit_index": 5_000,
        "applied_index": 4_999,
        "ready": True,
        "digest": {"index": 4_096, "sha256": "ab" * 32},
        "digests": {"4096": "ab" * 32},
        "now": {"index": 4_999, "sha256": "cd" * 32},
        "consumers": [{"name": "rest", "backlog": 7, "in_flight": 2, "watermark": 90}],
        **more,
    }


def gathered(*nodes, at=None):
    by_address = {one["admin"]: one for one in nodes}
    return gather(list(by_address), at=at, ask=by_address.__getitem__)


def test_the_leader_is_the_one_of_the_highest_term():
    """A leader that was cut off goes on calling itself one for a while."""
    status = gathered(node("a", "leader", 3), node("b", "leader", 4), node("c", term=4))
    assert (status["leader"], status["term"]) == ("b", 4)


def test_without_a_leader_the_term_is_the_highest_that_is_known():
    down = {"admin": "http://c", "error": "refused"}
    status = gathered(node("a", term=6), node("b", term=5), down)
    assert (status["leader"], status["term"]) == (None, 6)
    assert status["nodes"][2] == down
    assert "http://c: refused" in status_lines(status)


def test_a_leader_that_was_not_asked_is_whom_the_others_name():
    asked = node("a", term=6, leader="c"), node("b", term=5, leader="b")
    assert gathered(*asked)["leader"] == "c"
    assert gathered(*asked, node("c", term=6, leader="c"))["leader"] is None, "it says it is none"
    silent = {"admin": "http://x", "error": "refused"}
    assert gathered(*asked, silent)["leader"] is None, "that may be the leader, and dead"
    assert gathered(node("a", leader=None))["leader"] is None


def test_each_node_has_the_promised_names():
    (only,) = gathered(node("a", "leader"))["nodes"]
    assert (only["commit"], only["applied"]) == (5_000, 4_999)
    assert only["digest"] == {"index": 4_096, "sha256": "ab" * 32}


@pytest.mark.parametrize(
    ("at", "sha256"), [(4_096, "ab" * 32), (4_999, "cd" * 32), (17, None), (0, None)]
)
def test_the_digest_at_an_index_is_told_where_it_is_remembered(at, sha256):
    (only,) = gathered(node("a"), at=at)["nodes"]
    assert only["digest"] == (sha256 and {"index": at, "sha256": sha256})


def test_no_digest_yet_is_null():
    (only,) = gathered(node("a", digest={"index": 0, "sha256": ""}))["nodes"]
    assert only["digest"] is None


def test_lines_for_a_person_have_the_leaders_consumers():
    lines = status_lines(gathered(node("a", "leader"), node("b", ready=False)))
    assert lines[0] == "leader a, term 3"
    assert lines[1].startswith("a: leader, ready, commit 5000, applied 4999, digest abab")
    assert lines[2] == "  consumer rest: backlog 7, in flight 2, watermark 90"
    assert lines[3].startswith("b: follower, not ready")


def test_lines_for_a_person_have_the_members_and_what_is_damaged():
    members = {"a": {"votes": True}, "b": {"votes": True}, "d": {"votes": False}}
    place = "a bad header at /d/0000000000000009.floor, offset 0"
    lines = status_lines(
        gathered(
            node("a", "leader", members=members),
            node("b", damaged_entries=3, damaged_checkpoints=[place]),
        )
    )
    assert lines[2] == "  members: a votes, b votes, d learns"
    assert lines[-2:] == [
        "  damaged: 3 damaged entries, not yet mended by the others' copies",
        f"  damaged: {place}",
    ]


def test_a_node_that_is_down_is_told_with_the_reason():
    told = ask("http://127.0.0.1:1")
    assert told["admin"] == "http://127.0.0.1:1"
    assert "refused" in told["error"]


def test_addresses_come_from_the_directory_of_configurations(tmp_path):
    write_cluster(tmp_path, ClusterPlan())
    assert admin_addresses(tmp_path) == [f"http://127.0.0.1:{port}" for port in (2106, 2116, 2126)]
    with pytest.raises(ConfigurationError, match=r"found no \*\.toml"):
        admin_addresses(tmp_path / "a")


def test_an_admin_endpoint_that_is_no_port_has_no_address():
    with pytest.raises(ValueError, match="unix:"):
        admin_url("unix:/run/crowd")


def test_keys_are_told_of_by_the_leader_where_there_are_any():
    keys = {"held": 7, "count_max": 9, "replays": 3, "mismatches": 2, "evicted": 0}
    shown = status_lines(
        gathered(node("a", "leader", idempotency=keys), node("b", idempotency=keys))
    )
    assert shown.count("  idempotency keys: 7 of 9 held, 3 replays, 2 mismatches") == 1
    early = status_lines(gathered(node("a", "leader", idempotency=keys | {"evicted": 4})))
    assert "  idempotency keys: 7 of 9 held, 3 replays, 2 mismatches, 4 went early" in early
    none = status_lines(gathered(node("a", "leader", idempotency=keys | {"held": 0})))
    assert not any("idempotency" in line for line in none)
