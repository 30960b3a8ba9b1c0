"""What holds of delivery whatever consumers answer and whoever leads, in simulated time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from crowd.definition import Batch, Breaker, Retry
from crowd.delivery.outcome import Answered, Failed, FailureKind
from tests.unit.delivery.rig import DOWN, OK, Cluster, Node, consumer, stored

ANSWERS = [
    OK, OK, OK, DOWN, Answered(500), Answered(503, 2.0), Answered(400), Answered(404),
    Failed(FailureKind.TIMEOUT, "late"),
]  # fmt: skip

CONSUMERS = st.fixed_dictionaries(
    {
        "order": st.sampled_from(["none", "all", "path", "header:Key", "json:/key"]),
        "concurrency": st.integers(1, 5),
        "rate": st.sampled_from([None, None, "20/s", "100/s"]),
        "adaptive": st.booleans(),
        "attempts": st.sampled_from([0, 2, 4]),
        "breaker": st.builds(Breaker, st.sampled_from([2, 10]), st.sampled_from([0.9, 2.0])),
        "batch": st.sampled_from(
            [None, None, Batch("ndjson", 3, linger_us=50_000), Batch("bulk", 4, 60, 1_000)]
        ),
    }
)

STEPS = st.lists(
    st.one_of(
        st.lists(st.integers(0, 3), min_size=1, max_size=8),  # keys of accepted messages
        st.sampled_from([0.05, 0.3, 2.0]),  # seconds that go by
        st.sampled_from(["dies", "leaves"]),
    ),
    min_size=3,
    max_size=12,
)


def message_of(key, number):
    """Return a message with that key, wherever a consumer looks for it."""
    headers = ((b"Key", b"%d" % key),)
    return stored(b'{"key":%d,"n":%d}' % (key, number), b"/%d" % key, headers)


class Watched(Node):
    """A leader whose attempts are looked at as they start."""

    def __init__(self, cluster, watch, answer):
        self.watch = watch
        super().__init__(cluster, answer=answer)

    def courier(self, definition):
        courier = super().courier(definition)
        attempt, attempt_batch = courier.attempt, courier.attempt_batch

        def watched(message, naming):
            assert definition.batch is None
            self.watch(self, definition, [(message, naming)])
            return attempt(message, naming)

        def watched_batch(items):
            self.watch(self, definition, items)
            return attempt_batch(items)

        courier.attempt, courier.attempt_batch = watched, watched_batch
        return courier


@settings(max_examples=60, deadline=None)
@given(given_consumers=st.lists(CONSUMERS, min_size=1, max_size=3), steps=STEPS, data=st.data())
def test_order_bounds_and_an_end_for_every_message(given_consumers, steps, data):
    """In order within a key, within every bound, and delivered or dead in the end.

    Through failures, holds, outages and changes of leader.
    """
    definitions = {}
    for number, each in enumerate(given_consumers):
        fields = dict(each)
        retry = Retry(500_000, 2.0, 5_000_000, 10**12, fields.pop("attempts"))
        definitions[f"c{number}"] = consumer(f"c{number}", retry=retry, **fields)
    cluster = Cluster(*definitions.values())
    keys = {}  # by position
    delivered = {name: set() for name in definitions}
    begun = {name: set() for name in definitions}
    starts = {name: [] for name in definitions}
    under_way = dict.fromkeys(definitions, 0)

    def watch(node, definition, items):
        name, batch = definition.name, definition.batch
        under_way[name] += 1
        assert under_way[name] <= definition.concurrency
        if batch is not None:
            assert len(items) <= batch.count
            assert len(items) == 1 or sum(len(m.body) for m, _ in items) <= batch.bytes_max
        several = [naming.position for _, naming in items]
        if definition.order != "none":
            # Of one key, or of all where all are in order, one in a request at most.
            assert len(several) == len({keys[position] for position in several})
            assert len(several) == 1 or definition.order != "all"
        for position in several:
            look_at(definition, position)

    def look_at(definition, position):
        name = definition.name
        consumer_id = cluster.ledger.consumer_id(name)
        assert not cluster.ledger.is_settled(consumer_id, position)
        if definition.order != "none" and position not in begun[name]:
            for earlier in range(1, position):
                if definition.order == "all" or keys[earlier] == keys[position]:
                    ended = earlier in delivered[name]
                    assert ended or cluster.ledger.is_settled(consumer_id, earlier)
        begun[name].add(position)
        starts[name].append(cluster.clock.seconds())
        if definition.rate:
            per_s = int(definition.rate[:-2])
            recent = [s for s in starts[name] if s > starts[name][-1] - 1.0]
            # A burst of a tenth of a second, and the rest of one batch; a new leader begins with
            # one more.
            together = definition.batch.count if definition.batch else 1
            assert len(recent) <= per_s * 1.0 + per_s // 10 + together * leaders + 1

    def answer(name, message, naming):
        under_way[name] -= 1
        namings = naming if isinstance(naming, list) else [naming]
        each = [data.draw(st.sampled_from(ANSWERS)) if troubled else OK]
        if len(namings) > 1 and definitions[name].batch.form == "bulk" and each[0] is OK:
            each = [data.draw(st.sampled_from(ANSWERS)) if troubled else OK for _ in namings]
        else:
            each *= len(namings)
        delivered[name].update(
            n.position for n, said in zip(namings, each, strict=True) if said is OK
        )
        return each if isinstance(naming, list) else each[0]

    def lead():
        node = Watched(cluster, watch, answer)
        node.dispatcher.lead()
        return node

    troubled, leaders = True, 1
    node = lead()
    for step in steps:
        if isinstance(step, list):
            first = cluster.ledger.tip + 1
            keys |= {first + n: key for n, key in enumerate(step)}
            cluster.accept(*[message_of(key, first + n) for n, key in enumerate(step)])
            node.pass_s(0.02)
        elif isinstance(step, float):
            node.pass_s(step, step=0.05)
        else:
            if step == "leaves":
                node.dispatcher.report()
                cluster.commit()
            node.dispatcher.unlead()
            cluster.pending.clear()
            leaders += 1
            node = lead()
    troubled = False
    node.pass_s(200, step=0.25)
    assert node.fatal == []
    assert cluster.ledger.lowest_watermark == cluster.ledger.tip
    for name in definitions:
        consumer_id = cluster.ledger.consumer_id(name)
        dead = {
            letter.position
            for letter in cluster.ledger.letters.values()
            if letter.consumer == consumer_id
        }
        assert dead | delivered[name] == set(range(1, cluster.ledger.tip + 1))


BAD = {
    "refuses": lambda: DOWN,
    "says no": lambda: Answered(400),
    "is held": lambda: Answered(401),
    "is overloaded": lambda: (Answered(503, 1.0), 0.2),
    "never answers": lambda: (Failed(FailureKind.TIMEOUT, "late"), 1.0),
    "comes and goes": iter([OK, DOWN] * 10_000).__next__,
}


@settings(max_examples=40, deadline=None)
@given(
    how=st.sampled_from(sorted(BAD)),
    order=st.sampled_from(["none", "all", "path"]),
    gaps=st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.7]), min_size=5, max_size=40),
)
def test_a_healthy_consumers_latency_is_not_moved_by_a_dead_one(how, order, gaps):
    """Each message reaches it at the moment at which it would if there were no other consumer."""

    def arrivals(*others):
        cluster = Cluster(consumer("live"), *others)

        def answer(name, message, naming):
            if name == "live":
                arrived.append((naming.position, cluster.clock.seconds()))
                return OK, 0.005
            return BAD[how]()

        arrived = []
        node = Node(cluster, answer=answer)
        node.dispatcher.lead()
        for number, gap_s in enumerate(gaps):
            cluster.accept(message_of(number % 3, number))
            node.pass_s(gap_s)
        node.pass_s(5)
        return arrived

    alone = arrivals()
    assert len(alone) == len(gaps)
    assert arrivals(consumer("bad", order=order)) == alone


NOBODY = [
    DOWN, Failed(FailureKind.TLS, "no"), Failed(FailureKind.TIMEOUT, "late"),
    Failed(FailureKind.BROKEN, "cut"), Answered(502), Answered(503), Answered(504), Answered(429),
]  # fmt: skip
"""What comes back while the consumer is gone, from a proxy before it too."""


def retrying(attempts=0, for_s=10**6):
    return Retry(200_000, 2.0, 2_000_000, round(for_s * 1e6), attempts)


@settings(max_examples=60, deadline=None)
@given(
    order=st.sampled_from(["none", "all", "path"]),
    concurrency=st.integers(1, 4),
    failures=st.integers(1, 50),
    attempts=st.integers(1, 3),
    for_s=st.sampled_from([1, 10]),
    messages=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    outage_s=st.sampled_from([1, 20, 300]),
    data=st.data(),
)
def test_an_outage_makes_no_dead_letters(
    order, concurrency, failures, attempts, for_s, messages, outage_s, data
):
    """Whatever `attempts` and `for` are, and however late the breaker sees it."""
    retry, breaker = retrying(attempts, for_s), Breaker(failures)
    cluster = Cluster(
        consumer("c", order=order, concurrency=concurrency, retry=retry, breaker=breaker)
    )
    gone = True
    node = Node(cluster, answer=lambda *_: data.draw(st.sampled_from(NOBODY)) if gone else OK)
    node.dispatcher.lead()
    cluster.accept(*[message_of(key, number) for number, key in enumerate(messages)])
    node.pass_s(outage_s, step=0.1)
    gone = False
    node.pass_s(100, step=0.1)
    assert dict(cluster.ledger.letters) == {}
    assert cluster.ledger.lowest_watermark == len(messages)


@settings(max_examples=40, deadline=None)
@given(
    order=st.sampled_from(["all", "path"]),
    status=st.sampled_from([500, 501, 505, 599]),
    failures=st.integers(1, 12),
    bound=st.sampled_from([{"attempts": 30}, {"for_s": 600}]),
    behind=st.integers(1, 5),
)
def test_a_message_that_always_fails_does_not_hold_up_its_line_for_ever(
    order, status, failures, bound, behind
):
    """It dies by its own bounds, though no other message can show that the consumer works."""
    breaker = Breaker(failures)
    cluster = Cluster(consumer("c", order=order, retry=retrying(**bound), breaker=breaker))
    node = Node(cluster, answer=lambda _c, _m, n: Answered(status) if n.position == 1 else OK)
    node.dispatcher.lead()
    cluster.accept(*[message_of(1, number) for number in range(1 + behind)])
    node.pass_s(3_000, step=1)
    assert [letter.position for letter in cluster.ledger.letters.values()] == [1]
    later = [naming.position for _, _, naming in node.attempts if naming.position > 1]
    assert later == list(range(2, 2 + behind))


@settings(max_examples=40, deadline=None)
@given(
    answer=st.sampled_from([*NOBODY[:-1], Answered(500), Answered(404)]),
    behind=st.integers(0, 3),
    failures=st.integers(1, 12),
)
def test_what_cannot_be_told_from_an_outage_makes_no_dead_letters(answer, behind, failures):
    """Nobody there, or nothing behind it: it is tried until the consumer answers."""
    behind = 0 if answer == Answered(500) else behind
    retry = retrying(attempts=13, for_s=300)
    cluster = Cluster(consumer("c", order="all", retry=retry, breaker=Breaker(failures)))
    answers = {1: answer}
    node = Node(cluster, answer=lambda _c, _m, n: answers.get(n.position, OK))
    node.dispatcher.lead()
    cluster.accept(*[message_of(1, number) for number in range(1 + behind)])
    node.pass_s(5_000, step=1)
    assert dict(cluster.ledger.letters) == {}
    answers.clear()
    node.pass_s(100, step=1)
    assert cluster.ledger.lowest_watermark == 1 + behind
