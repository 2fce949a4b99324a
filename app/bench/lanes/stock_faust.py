"""Lane: Faust as it is, on aiokafka, with an agent that does nothing with its records.

It takes event by event: `take(256, within=0.005)` cost 4 % more CPU (six interleaved pairs). What
Faust needs to do its best on Kafka 4 is set: no topic declaration, no leader topic, no web server.
"""

import asyncio
import logging
import tempfile
from typing import Any

import faust

from app.bench.lanes.lane import Meter, Task, task


def app_of(wanted: Task, data: str, **more: Any) -> faust.App:
    """An app that does its best on Kafka 4; `data` is a directory of its own."""
    return faust.App(
        wanted.group,
        broker=f"kafka://{wanted.bootstrap}",
        store="memory://",
        datadir=data,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        key_serializer="raw",
        value_serializer="raw",
        **more,
    )


async def main(wanted: Task) -> None:
    """Run the app until the count is reached."""
    meter, done = Meter(wanted.n, wanted.warm), asyncio.Event()
    with tempfile.TemporaryDirectory() as data:
        app = app_of(wanted, data)
        topic = app.topic(wanted.topic, value_type=bytes)

        async def events(stream: faust.StreamT[bytes]) -> None:
            async for _ in stream:
                if meter.count(1):
                    done.set()

        app.agent(topic)(events)
        await app.start()
        await done.wait()
        meter.report()
        await app.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(main(task()))
