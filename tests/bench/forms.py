"""What it costs to make a batch's request, in microseconds a message.

    .venv/bin/python -m tests.bench.forms [--messages 500] [--rounds 40] [--send]

Builds batches of the same 327-byte JSON POST in each form, with and without a signature and
gzip, and reads a bulk answer. `floor` is what joining the bodies alone takes. Each figure is
the best of the rounds, in CPU time of one thread. With `--send` the batches also go through a
courier, four at a time, to a consumer in a process of its own that answers 200: each message
decoded from its stored form, made a batch, sent and answered; that is counted in wall time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
from twisted.internet.defer import Deferred, DeferredList

from crowd.definition import Batch, ConsumerDefinition, Retry
from crowd.delivery.courier import make_courier
from crowd.delivery.forms.form import Form
from crowd.delivery.forms.signing import Secret, parse_key
from crowd.delivery.outcome import Answered
from crowd.delivery.request import Naming, parse_destination
from crowd.message import Message, Position, decode_message, encode_message, message_id

HEADERS = (
    (b"Host", b"leads.example"),
    (b"Content-Type", b"application/json"),
    (b"Accept", b"application/json"),
    (b"User-Agent", b"bench/1"),
    (b"Content-Length", b"327"),
)
SECRET = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def body(number):
    lead = {"lead": number, "shop": "a23m07b23", "fields": {"name": "Ada", "mail": "a@example.org"}}
    return json.dumps(lead | {"text": "x" * (327 - len(json.dumps(lead | {"text": ""})))}).encode()


def definition(form, *, batch, gzip=False):
    retry = Retry(1_000_000, 2.0, 300_000_000, 10**12)
    plain = ConsumerDefinition(
        "c", "http://127.0.0.1:9200", None, (), 4, None, 15_000_000, "none", "beginning", retry,
        10**9, "refuse",
    )  # fmt: skip
    if batch:
        return msgspec.structs.replace(plain, batch=Batch(form), gzip=gzip)
    return msgspec.structs.replace(plain, form=form, gzip=gzip)


def best_us(work, rounds, messages):
    taken = []
    for _ in range(rounds):
        started = time.thread_time()
        work()
        taken.append(time.thread_time() - started)
    return min(taken) / messages * 1e6


async def send(url, stored, namings, batches):
    """Print how fast couriers bring batches to a consumer, for each form that it can answer."""
    from twisted.internet import reactor

    for form in ("ndjson", "json", "cloudevents"):
        known = msgspec.structs.replace(definition(form, batch=True), url=url)
        courier = make_courier(reactor, known, lambda: True, lambda _: None)
        left = batches

        async def worker(courier=courier):
            nonlocal left
            while left > 0:
                left -= 1
                items = list(zip(map(decode_message, stored), namings, strict=True))
                answers = await courier.attempt_batch(items)
                assert answers == [Answered(200)] * len(items), answers[0]

        await worker()  # connections, caches
        left = batches
        started = time.perf_counter()
        await DeferredList(
            [Deferred.fromCoroutine(worker()) for _ in range(4)], fireOnOneErrback=True
        )
        rate = batches * len(stored) / (time.perf_counter() - started)
        print(f"sent {form:29} {1e6 / rate:7.2f} us a message {rate:12,.0f} messages/s", flush=True)
        courier.abort()


def send_all(stored, namings, batches):
    from twisted.internet import reactor

    reactor.seconds = time.monotonic
    command = [sys.executable, str(Path(__file__).with_name("delivery.py")), "--sink"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sink:
        url = f"http://127.0.0.1:{int(sink.stdout.readline())}"

        async def run():
            try:
                await send(url, stored, namings, batches)
            finally:
                sink.stdin.close()
                reactor.stop()

        reactor.callWhenRunning(lambda: Deferred.fromCoroutine(run()))
        reactor.run()


def main():
    """Measure, and print a line for each form."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--send", action="store_true")
    options = parser.parse_args()
    count = options.messages
    items = [
        (
            Message(
                b"POST", b"/leads?shop=a23m07b23", HEADERS, body(number),
                1_700_000_000_000_000 + number * 20, b"127.0.0.1", b"http",
            ),
            Naming(message_id("0123abcd", Position(number)), Position(number), 1),
        )
        for number in range(1, count + 1)
    ]  # fmt: skip
    destination = parse_destination("http://127.0.0.1:9200", None)
    key = (parse_key(Secret(SECRET)),)

    def report(name, work):
        cost = best_us(work, options.rounds, count)
        print(f"{name:34} {cost:7.2f} us a message {1e6 / cost:12,.0f} messages/s")

    stored = [encode_message(message) for message, _ in items]
    report("floor: joining the bodies", lambda: b"\n".join([message.body for message, _ in items]))
    report("decoding stored messages", lambda: [decode_message(each) for each in stored])
    for form in ("ndjson", "json", "bulk", "cloudevents"):
        made = Form(definition(form, batch=True), destination)
        report(f"batch {form}", lambda made=made: made.batch(items))
    made = Form(definition("ndjson", batch=True), destination)
    report("batch ndjson, signed", lambda: made.batch(items, key, 1_700_000_000))
    zipped = Form(definition("ndjson", batch=True, gzip=True), destination)
    report("batch ndjson, gzip", lambda: zipped.batch(items))
    bulk = Form(definition("bulk", batch=True), destination)
    for errors in (False, True):
        answer = {
            "took": 9,
            "errors": errors,
            "items": [
                {"index": {"_index": "leads", "_id": naming.id, "_version": 1, "result": "created",
                           "_shards": {"total": 2, "successful": 1, "failed": 0},
                           "_seq_no": naming.position, "_primary_term": 1, "status": 201}}
                for _, naming in items
            ],
        }  # fmt: skip
        text = json.dumps(answer).encode()
        name = f"bulk answer, {len(text) >> 10} KiB, errors {errors}"
        report(name, lambda text=text: bulk.answers(items, Answered(200), text))
    for form in ("request", "cloudevents-binary", "cloudevents-structured"):
        single = Form(definition(form, batch=False), destination)
        report(
            f"single {form}",
            lambda single=single: [single.request(message, naming) for message, naming in items],
        )
    single = Form(definition("request", batch=False), destination)
    report(
        "single request, signed",
        lambda: [single.request(message, naming, key, 1_700_000_000) for message, naming in items],
    )
    if options.send:
        send_all(stored, [naming for _, naming in items], options.rounds)


if __name__ == "__main__":
    main()
