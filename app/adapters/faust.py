"""Faust around the pipeline: life cycle, agent and supervision, with record batches as its events.

The transport `librdkafka://` gives Faust an `Intake`'s batches; one event is one micro-batch.
Faust's own rebalance stops the world and empties every stream, so Faust is told of one lane,
assigned for good, and the real assignment (cooperative, batch by batch) stays between `Intake` and
`Ledger`. Likewise acks, commits and sending are the project's own: an exception in an agent would
ack the event.
"""
# ruff: noqa: ARG002, ASYNC109 -- the base classes' arguments, of which a lane needs few

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import faust
import structlog
from faust.transport import base, consumer, producer
from faust.types import TP, ConsumerMessage, StreamT

from app.errors import ConfigError
from app.intake import Intake
from app.records import RecordBatch

log = structlog.get_logger("riskwire.worker")
_services = logging.getLogger("faust.riskwire")  # narrates starts and stops, as Faust's own do
Handle = Callable[[RecordBatch], Awaitable[None]]


class BatchSchema(faust.Schema[None, RecordBatch]):
    """Hands the record batch through as it is."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> None:
        """There is no key: a batch has many."""

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:
        """The batch itself."""
        return message.value


class ScoringApp(faust.App):
    """A Faust app that reads from an intake and drains before anything stops."""

    logger = _services
    intake: Intake
    drain: Callable[[], Awaitable[None]]

    async def on_stop(self) -> None:
        """Finish what is in hand while the agent still runs, then stop as Faust does."""
        await self.drain()
        await super().on_stop()

    def _create_directories(self) -> None:
        """Keep nothing on disk: there are no tables."""


class Consumer(consumer.Consumer):
    """Delivers an intake's batches on one lane."""

    logger = _services
    app: ScoringApp

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lane: set[TP] = set()

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Start the intake, which subscribes, and announce the lane."""
        if not self._lane:
            self._lane = {TP(topic, 0) for topic in topics}
            self.app.intake.start()
            # The announcement waits for this subscription to be done, so it cannot be awaited here.
            self.add_future(self._announce())

    async def _announce(self) -> None:
        self.app.on_rebalance_start()
        await self.on_partitions_assigned(self._lane, self.app.consumer_generation_id)

    async def _drain_messages(self, fetcher: Any) -> None:
        lane = next(iter(self._lane))
        while not (self.should_stop or fetcher.should_stop):
            try:
                batch = await self.app.intake.get()
            except Exception as error:  # noqa: BLE001 -- the app ends with it
                await self.app.crash(error)
                return
            await self.callback(self._to_message(lane, batch))

    def _to_message(self, tp: TP, record: RecordBatch) -> ConsumerMessage:
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            offset=int(record.offset[0]),
            timestamp=record.polled_us / 1e6,
            timestamp_type=0,
            headers={},
            key=None,
            value=record,  # type: ignore[arg-type]  # Faust's type knows bytes only
            checksum=None,
            tp=tp,
            # A stream skips messages of another generation without a word.
            generation_id=self.app.consumer_generation_id,
        )

    def assignment(self) -> set[TP]:
        """The lane."""
        return self._lane

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Nothing to seek: the intake starts at the committed offsets."""
        return {}

    async def _seek(self, partition: TP, offset: int) -> None:
        """See `seek_to_committed`."""

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        return False  # the intake commits

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        return {}  # `_drain_messages` is overridden

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    async def create_topic(self, topic: str, *_: Any, **__: Any) -> None:
        """Refuse: `riskwire topics apply` makes topics."""
        raise ConfigError(f"topic {topic} is missing: run `riskwire topics apply`")

    def topic_partitions(self, topic: str) -> int | None:
        """One lane a topic."""
        return 1

    def highwater(self, tp: TP) -> int:
        """Unknown: Faust does not see offsets."""
        return 0

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """See `highwater`."""
        return {}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """See `highwater`."""
        return {}

    async def position(self, tp: TP) -> int | None:
        """See `highwater`."""
        return None

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """See `seek_to_committed`."""

    async def seek_to_beginning(self, *partitions: TP) -> None:
        """See `seek_to_committed`."""

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> Any:
        """Faust sends nothing by this transport."""
        return partition


class Producer(producer.Producer):
    """Sends nothing: outputs leave by the worker's `Sink`, whole batches at a time."""

    logger = _services

    async def flush(self) -> None:
        """Nothing to flush."""


class Transport(base.Transport):
    """Faust's transport `librdkafka://`; serves apps made by `create_app`."""

    Consumer = Consumer
    Producer = Producer
    driver_version = "riskwire"


def create_app(
    name: str,
    bootstrap: str,
    topic: str,
    intake: Intake,
    handle: Handle,
    drain: Callable[[], Awaitable[None]],
) -> ScoringApp:
    """A Faust app whose one agent calls `handle` for each micro-batch, one after the other.

    An exception that leaves `handle` ends the app: nothing of that batch is committed.
    """
    app = ScoringApp(
        name,
        broker=f"librdkafka://{bootstrap.split(',', maxsplit=1)[0]}",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        store="memory://",
        autodiscover=False,
    )
    app.intake, app.drain = intake, drain
    channel = app.topic(topic, schema=BatchSchema(), acks=False)

    @app.agent(channel)
    async def score(batches: StreamT[RecordBatch]) -> None:
        async for batch in batches:
            try:
                await handle(batch)
            except Exception as error:
                log.exception("the worker stops; nothing of this batch was committed")
                await app.crash(error)
                return

    return app


class _Worker(faust.Worker):
    """Faust's worker without its banner."""

    async def on_startup_finished(self) -> None:
        """Print nothing."""


def run_app(app: ScoringApp, log_level: str, logging_config: dict[str, Any]) -> int:
    """Run until SIGTERM, SIGINT or a crash; the exit status."""
    worker = _Worker(
        app,
        loglevel=log_level,
        logging_config=logging_config,
        redirect_stdouts=False,
        quiet=True,
        loop=asyncio.new_event_loop(),
    )
    try:
        with contextlib.suppress(asyncio.CancelledError):
            worker.execute_from_commandline()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
