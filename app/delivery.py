"""The way out: sends whole batches, and tells the ledger when all of one is acknowledged.

A record that cannot be delivered throws the producer away: back-off, back to the committed
offsets, a new producer. Meanwhile nothing is sent, and what was admitted before is dropped, so that
outputs keep their order. At least once: what was sent before the failure may be sent again.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from app.errors import BrokerUnavailable
from app.intake import Intake
from app.ledger import Ledger
from app.ports import Sink
from app.records import Outbound
from app.watermarks import Watermark, outbound

log = structlog.get_logger("riskwire.delivery")
_ACK_POLL_S = 0.005
_ROOM_POLL_S = 0.001
_RETRY_FIRST_S, _RETRY_LONGEST_S = 0.5, 15.0


class Delivery:
    """One producer at a time, and its acknowledgements; all calls come from one event loop."""

    def __init__(self, open_sink: Callable[[], Sink], intake: Intake) -> None:
        """Nothing is opened before `open`."""
        self._open_sink, self._intake = open_sink, intake
        self._sink: Sink | None = None
        self._usable = asyncio.Event()
        self._acknowledging: asyncio.Task[None] | None = None
        self._retry_s = _RETRY_FIRST_S
        self._closed = False
        self.failing = ""

    @property
    def ledger(self) -> Ledger:
        """Where what is sent is counted as done."""
        return self._intake.ledger

    def open(self) -> None:
        """Make the producer, so that the first batch does not wait; it connects by itself."""
        self._sink = self._open_sink()
        self._usable.set()

    async def send(self, outbound: Outbound, ticket: int) -> bool:
        """Queue a batch once there is room; False if its ticket went stale while it waited."""
        if self._acknowledging is None:
            self._acknowledging = asyncio.create_task(self._acknowledge())
            self._acknowledging.add_done_callback(lambda _: self._usable.set())
        while True:
            await self._usable.wait()
            if self._acknowledging.done() and not self._closed:
                self._acknowledging.result()  # raises what ended it: the worker ends with it
            sink = self._sink
            if sink is None or not self.ledger.is_open(ticket):
                return False
            try:
                if sink.room(len(outbound)):
                    sink.send(outbound, ticket)
                    self._collect(sink)
                    return True
                self._collect(sink)
            except BrokerUnavailable as error:
                await self._go_back(sink, error)
            await asyncio.sleep(_ROOM_POLL_S)

    async def close(self) -> None:
        """Let go of the producer; what is unacknowledged belongs to no committed offset."""
        self._closed = True
        if self._acknowledging is not None and not self._acknowledging.done():
            self._acknowledging.cancel()
        sink, self._sink = self._sink, None
        self._usable.set()
        if sink is not None:
            await asyncio.to_thread(sink.close, 0)

    def _collect(self, sink: Sink) -> None:
        if done := sink.poll(0):
            self.ledger.done(done)
            self._retry_s = _RETRY_FIRST_S

    async def _acknowledge(self) -> None:
        """Collect acknowledgements while no batch comes that would."""
        while True:
            await asyncio.sleep(_ACK_POLL_S)
            if (sink := self._sink) is not None:
                try:
                    self._collect(sink)
                except BrokerUnavailable as error:
                    await self._go_back(sink, error)

    async def _go_back(self, sink: Sink, error: BrokerUnavailable) -> None:
        if self._sink is not sink:
            return  # the other of `send` and `_acknowledge` was first
        self._sink = None
        self._usable.clear()
        self.failing = f"outputs could not be delivered: {error}"
        log.error("going back to the committed offsets", error=str(error), retry_s=self._retry_s)
        await asyncio.to_thread(sink.close, 0)
        await asyncio.sleep(self._retry_s)
        self._retry_s = min(2 * self._retry_s, _RETRY_LONGEST_S)
        await self._intake.rewind()
        if self._closed:
            return
        self.open()
        self.failing = ""


class Announcements:
    """Watermarks on their way out; implements `Announcer`."""

    def __init__(self, delivery: Delivery, topic: str, group: str) -> None:
        """Send to this topic, of a consumer group."""
        self._delivery, self._topic, self._group = delivery, topic, group

    def begin(self) -> int:
        """See `Announcer.begin`."""
        return self._delivery.ledger.begin()

    async def send(self, marks: Sequence[tuple[int, Watermark]], ticket: int) -> None:
        """See `Announcer.send`."""
        await self._delivery.send(outbound(self._topic, self._group, marks), ticket)
