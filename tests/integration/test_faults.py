"""What got a 200 arrives, whatever dies in between: three real nodes, kill -9 among them."""

import time

from tests.checker import check_deliveries
from tests.integration.cluster import eventually


def delivered(cluster, within_s=60):
    """Wait until every acknowledged message has arrived; return the figures."""

    def all_there():
        figures = check_deliveries(cluster.loads, cluster.sinks)
        return figures if figures["missing"] == 0 else None

    return eventually("every acknowledged message at the consumer", all_there, within_s)


def errors_on_the_living(report, killed_url):
    return {
        url: counts["failed"] for url, counts in report["urls"].items() if killed_url not in url
    }


def test_every_node_accepts_and_the_consumer_gets_it_once(cluster):
    cluster.sink(cluster.consumer_port)
    ids = set()
    for name in cluster.nodes:
        status, headers, body = cluster.post(name)
        assert (status, body) == (200, b'{"status": "OK"}')
        ids.add(headers["Crowd-Message-Id"])
    assert len(ids) == 3
    eventually("three deliveries", lambda: check_deliveries([], cluster.sinks)["delivered"] == 3)
    cluster.same_ledgers()


def test_i2_killing_the_leader_under_load_loses_nothing_and_fails_nobody_alive(cluster):
    """I1, I2: acknowledged messages arrive; the other nodes' producers see a pause, no error."""
    cluster.sink(cluster.consumer_port)
    leader = cluster.leader()
    load = cluster.load(rate=300, seconds=6)
    time.sleep(1.5)
    killed = cluster.nodes[leader].http
    cluster.kill(leader)
    time.sleep(2)
    cluster.start()
    report = cluster.finish(load)
    assert set(errors_on_the_living(report, killed).values()) == {0}
    figures = delivered(cluster)
    assert figures["acknowledged"] >= 300
    assert figures["same_id_other_body"] == figures["ids_given_twice"] == 0
    cluster.up().same_ledgers()


def test_i1_all_nodes_killed_at_once_keep_what_they_acknowledged(cluster):
    """I1: kill -9 of all three under load; after their start everything acknowledged arrives."""
    load = cluster.load(rate=0, seconds=2)
    time.sleep(1)
    cluster.kill(*cluster.nodes)
    cluster.finish(load)
    cluster.sink(cluster.consumer_port)
    cluster.up()
    figures = delivered(cluster)
    assert figures["acknowledged"] > 100
    cluster.same_ledgers()


def test_a_follower_that_missed_ten_thousand_messages_catches_up(cluster):
    cluster.sink(cluster.consumer_port)
    follower = next(name for name in cluster.nodes if name != cluster.leader())
    living = [name for name in cluster.nodes if name != follower]
    cluster.kill(follower)
    load = cluster.load("--requests", "10000", names=living, rate=0, seconds=60)
    report = cluster.finish(load)
    assert report["succeeded"] == 10_000
    assert report["failed"] == 0
    cluster.up().same_ledgers()
    assert delivered(cluster)["acknowledged"] == 10_000


def test_sigterm_hands_over_and_fails_no_request(cluster):
    """A rolling restart of the leader: what it took in is answered, and another one leads."""
    cluster.sink(cluster.consumer_port)
    leader = cluster.leader()
    living = [name for name in cluster.nodes if name != leader]
    load = cluster.load(names=living, rate=200, seconds=4)
    time.sleep(1)
    begin_s = time.monotonic()
    cluster.term(leader)
    assert time.monotonic() - begin_s < 15
    report = cluster.finish(load)
    assert report["failed"] == 0
    assert report["longest_pause_s"] < 1.5
    assert "hands leadership over" in cluster.log(leader)
    delivered(cluster)


def test_a_wiped_node_comes_back_as_a_learner_and_votes_again_when_it_has_everything(cluster):
    """D8: its directory is gone, so is its memory of votes; a committed entry readmits it."""
    import shutil

    for _ in range(20):
        assert cluster.post("a")[0] == 200
    wiped = next(name for name in cluster.nodes if name != cluster.leader())
    before = {n["name"]: n["journal_id"] for n in cluster.status()["nodes"]}
    cluster.kill(wiped)
    from crowd.config import load_file

    shutil.rmtree(load_file(cluster.nodes[wiped].config).node.directory)
    cluster.up()
    cluster.same_ledgers()
    node = next(n for n in cluster.status()["nodes"] if n["name"] == wiped)
    assert node["journal_id"] != before[wiped]
    assert node["role"] == "follower"
    log = cluster.log(wiped)
    assert log.rindex("this node is voter now") > log.rindex("this node is learner now")
