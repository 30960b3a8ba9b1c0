"""What delivers behind gateway_nats: takes messages from the stream's durable consumer and brings each by
one POST to URL, 32 at a time; acknowledges on a 2xx, and has the rest come again.
NATS_URLS: as the gateway's. argv: URL."""
import asyncio
import os
import sys

import aiohttp
import nats
from nats.js.api import ConsumerConfig

URL, AT_ONCE, BATCH = sys.argv[1], 32, 256
HEADERS = {"Content-Type": "application/json"}


async def main():
    connection = await nats.connect(os.environ["NATS_URLS"].split(",")[0])
    stream = connection.jetstream()
    config = ConsumerConfig(max_ack_pending=2 * BATCH)
    pulled = await stream.pull_subscribe("leads", "deliver", stream="LEADS", config=config)
    waiting = asyncio.Queue(BATCH)

    async def bring(session):
        while True:
            message = await waiting.get()
            try:
                async with session.post(URL, data=message.data, headers=HEADERS) as answer:
                    await answer.read()
                    delivered = 200 <= answer.status < 300
            except aiohttp.ClientError:
                delivered = False
            await (message.ack() if delivered else message.nak(1))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:
        couriers = [asyncio.create_task(bring(session)) for _ in range(AT_ONCE)]
        while not any(courier.done() for courier in couriers):
            try:
                for message in await pulled.fetch(BATCH, timeout=1):
                    await waiting.put(message)
            except nats.errors.TimeoutError:
                pass
        await asyncio.gather(*couriers)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
