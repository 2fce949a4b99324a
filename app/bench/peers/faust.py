"""Peer: Faust on aiokafka, event by event, by `take`, or `direct`: by `take`, and past its topics.

`direct` hands records to the app's producer itself, which spares serialisers, sensors and futures
and costs less than half. What Faust needs to do its best is set: `stock_faust`'s options, and a
linger of its producer, which has none by itself.
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Sequence

import faust

from app.bench.lanes.lane import Meter, Task, task
from app.bench.lanes.stock_faust import app_of
from app.bench.peers.peer import Work, finish


async def main(wanted: Task) -> None:
    """Run the app until the count is reached."""
    meter, work = Meter(wanted.n, wanted.warm), Work(wanted)
    with tempfile.TemporaryDirectory() as data:
        app = app_of(wanted, data, producer_linger=0.005)
        topic = app.topic(wanted.topic, value_type=bytes)
        scores = app.topic(wanted.scores, key_type=bytes, value_type=bytes)

        async def score(stream: faust.StreamT[bytes]) -> None:
            async for values in batches(stream, wanted):
                for key, value in work(values):
                    if wanted.variant == "direct":
                        await app.producer.send(wanted.scores, key, value, None, None, None)
                    else:
                        await scores.send(key=key, value=value)
                if meter.count(len(values)):
                    await app.producer.flush()
                    await app.consumer.commit()
                    finish(meter)

        app.agent(topic)(score)
        await app.start()
        await asyncio.Event().wait()


async def batches(stream: faust.StreamT[bytes], wanted: Task) -> AsyncIterator[Sequence[bytes]]:
    """One by one, or as many as there are in time."""
    if wanted.variant:
        async for values in stream.take(wanted.batch, within=wanted.linger_ms / 1000):
            yield values
    else:
        async for value in stream:
            yield [value]


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(main(task()))
