"""The way out: sends whole batches, and tells the ledger when all of one is acknowledged.

A record that cannot be delivered throws the producer away: back-off, back to the committed
offsets, a new producer. Meanwhile nothing is sent, and what was admitted before is dropped, so that
outputs keep their order. At least once: what was sent before the failure may be sent again.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import structlog

from app.errors import BrokerUnavailable
from app.intake import Intake
from app.ports import Sink
from app.records import Outbound
from app.watermarks import Watermark, declarations

log = structlog.get_logger("riskwire.delivery")
_ACK_POLL_S = 0.005
_ROOM_POLL_S = 0.001
_RETRY_FIRST_S, _RETRY_LONGEST_S = 0.5, 15.0


@dataclass(frozen=True, slots=True)
class Output:
    """What a batch sends: how many records at most, and how to make them once they may leave."""

    count: int
    encode: Callable[[], Outbound]
    sent: Callable[[], None] = lambda: None
    """Called when it is sent, or committed where it is sent in a transaction."""
    waits: bool = True
    """Whether it waits for room: what is small and must not be overtaken does not."""
    nbytes: int = 0
    """What it keeps in memory until it is sent, and sends, about."""

    @classmethod
    def of(cls, outbound: Outbound, *, waits: bool = True) -> Self:
        """Records that are made already."""
        return cls(len(outbound), lambda: outbound, waits=waits, nbytes=outbound.nbytes)


class Deliverer(Protocol):
    """The way out: `Delivery`, or `app.transactions.TransactionalDelivery`."""

    failing: str
    """Why nothing goes out now; empty where all is well."""

    @property
    def is_stuck(self) -> bool:
        """Whether it waits for what will not come any more: the worker must start anew."""

    def open(self) -> None:
        """Make the producer, so that the first batch does not wait."""

    async def send(self, output: Output, ticket: int) -> bool:
        """Send a batch once there is room; False if its ticket went stale while it waited."""

    async def close(self) -> None:
        """Let go of the producer; what is unacknowledged belongs to no committed offset."""


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
        self.is_stuck = False

    def open(self) -> None:
        """Make the producer, so that the first batch does not wait; it connects by itself."""
        self._sink = self._open_sink()
        self._usable.set()

    async def send(self, output: Output, ticket: int) -> bool:
        """See `Deliverer.send`."""
        if not output.count:
            self._intake.ledger.done([ticket])
            return True
        if self._acknowledging is None:
            self._acknowledging = asyncio.create_task(self._acknowledge())
            self._acknowledging.add_done_callback(lambda _: self._usable.set())
        while True:
            await self._usable.wait()
            if self._acknowledging.done() and not self._closed:
                self._acknowledging.result()  # raises what ended it: the worker ends with it
            sink = self._sink
            if sink is None or not self._intake.ledger.is_open(ticket):
                return False
            try:
                if sink.room(output.count):
                    sink.send(output.encode(), ticket)
                    output.sent()
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
            self._intake.ledger.done(done)
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

    def __init__(
        self, delivery: Deliverer, intake: Intake, topic: str, group: str, logs: tuple[str, str]
    ) -> None:
        """Send to this topic, of a consumer group that reads these logs."""
        self._delivery, self._intake = delivery, intake
        self._topic, self._group, self._logs = topic, group, logs

    def begin(self, marks: Sequence[tuple[int, Watermark]]) -> int:
        """See `Announcer.begin`."""
        return self._intake.ledger.begin({(self._logs[m.log], p): m.position for p, m in marks})

    async def send(self, marks: Sequence[tuple[int, Watermark]], ticket: int) -> None:
        """See `Announcer.send`."""
        outbound = declarations(self._topic, self._group, marks)
        await self._delivery.send(Output.of(outbound, waits=False), ticket)
