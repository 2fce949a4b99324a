"""The intake: order, bounds, commits, revokes and rewinds, on a consumer in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

from app.adapters.memory import MemorySource
from app.batching import BatchPolicy
from app.errors import BrokerUnavailable
from app.intake import Intake, IntakeLimits
from app.ledger import Ledger
from app.metrics import Metrics
from app.ports import RebalanceListener, Source
from app.records import RecordBatch
from tests.app.builders import Nobody, begin, record_batch

AT, AT1 = ("transactions", 0), ("transactions", 1)
LIMITS = IntakeLimits(queue_batches_max=2, commit_interval_ms=1, drain_timeout_s=0.5)


class Bench:
    """An intake over one memory source."""

    def __init__(self) -> None:
        self._opened: MemorySource | None = None
        self.owner, self.metrics = Nobody(), Metrics()
        self.intake = Intake(
            self._open, Ledger(), BatchPolicy(100, 3), LIMITS, self.metrics, self.owner
        )

    @property
    def source(self) -> MemorySource:
        """The consumer, once the intake has opened it."""
        assert self._opened is not None
        return self._opened

    def _open(self, listener: RebalanceListener) -> Source:
        self._opened = MemorySource(listener, [AT, AT1])
        return self._opened

    async def start(self) -> None:
        """Start the intake and wait for its partition."""
        self.intake.start()
        await until(lambda: self.intake.is_assigned)

    def add(self, first: int, count: int = 1) -> None:
        """Let a batch come whose offsets begin with `first`."""
        self.source.add(record_batch([(0, first + i, b"k", b"v") for i in range(count)]))

    async def take(self) -> RecordBatch:
        """The next batch, as the agent takes it."""
        batch = await asyncio.wait_for(self.intake.get(), 5)
        self.intake.taken()
        return batch


async def until(condition: Callable[[], object], timeout_s: float = 5) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.002)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A started intake that is stopped at the end."""
    bench = Bench()
    await bench.start()
    yield bench
    await bench.intake.stop()
    assert bench.source.closed


async def test_batches_come_in_order_and_commit_when_done(bench: Bench) -> None:
    """Offsets are committed after, and only after, the ledger hears that a batch is done."""
    bench.add(0, 3)
    bench.add(3, 2)
    one, two = await bench.take(), await bench.take()
    assert [*one.offset, *two.offset] == [0, 1, 2, 3, 4]
    ticket, _ = begin(bench.intake.ledger, one)
    await asyncio.sleep(0.05)
    assert bench.source.commits == {}
    bench.intake.ledger.done([ticket])
    await until(lambda: bench.source.commits == {AT: 3})


@pytest.mark.parametrize(
    ("end", "reached", "is_at_end"), [(3, 0, True), (4, 4, True), (4, 3, False)]
)
async def test_a_marker_is_no_record_to_come(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, end: int, reached: int, *, is_at_end: bool
) -> None:
    """A log ends behind its last record where the consumer says so: there are markers between."""
    monkeypatch.setattr(bench.source, "reached", lambda: {AT: reached})
    monkeypatch.setattr(bench.source, "ends", lambda: {AT: end, AT1: 1})
    bench.add(0, 3)
    await bench.take()
    lag = partial(
        bench.metrics.registry.get_sample_value,
        "riskwire_consumer_lag_records",
        {"topic": "transactions", "partition": "0"},
    )
    await until(lambda: bench.intake.at_end() == ({AT: 3} if is_at_end else {}))
    await until(lambda: lag() == float(not is_at_end))


async def test_a_full_queue_pauses_and_polls_on(bench: Bench) -> None:
    """With nobody taking, partitions are paused; they resume when there is room, nothing lost."""
    for i in range(6):
        bench.add(i)
    await until(lambda: AT in bench.source.paused)
    assert [int((await bench.take()).offset[0]) for _ in range(6)] == [*range(6)]
    await until(lambda: not bench.source.paused)


async def test_a_revoke_waits_for_work_in_hand_and_commits_it(bench: Bench) -> None:
    """A clean revoke ends with the offset of the batch that was in hand."""
    bench.add(0, 4)
    ticket, _ = begin(bench.intake.ledger, await bench.take())
    revoked = asyncio.create_task(asyncio.to_thread(bench.source.revoke))
    await asyncio.sleep(0.05)
    assert not revoked.done()
    bench.intake.ledger.done([ticket])
    await revoked
    assert bench.source.commits == {AT: 4}


async def test_a_lost_partition_commits_nothing(bench: Bench) -> None:
    """What another may own already is let go at once."""
    bench.add(0, 4)
    ticket, _ = begin(bench.intake.ledger, await bench.take())
    await asyncio.to_thread(bench.source.revoke, lost=True)
    bench.intake.ledger.done([ticket])
    await asyncio.sleep(0.05)
    assert bench.source.commits == {}


async def test_a_rewind_seeks_to_the_committed_offset(bench: Bench) -> None:
    """After a failed delivery reading goes on from what was committed; older batches are stale."""
    bench.add(0, 2)
    bench.add(2, 2)
    one, two = await bench.take(), await bench.take()
    ticket, _ = begin(bench.intake.ledger, one)
    bench.intake.ledger.done([ticket])
    await until(lambda: bench.source.commits == {AT: 2})
    bench.intake.ledger.admit(two)
    await bench.intake.rewind()
    assert bench.source.sought[-1] == {AT: 2, AT1: 0}
    assert bench.intake.ledger.admit(two) is None


async def test_a_rewind_goes_back_for_what_was_polled_and_not_begun(bench: Bench) -> None:
    """A partition whose records wait in the queue is read again too: they are stale from now on."""
    bench.add(0, 2)
    bench.source.add(record_batch([(1, 0, b"k", b"v"), (1, 1, b"k", b"v")]))
    one, two = await bench.take(), await bench.take()
    begin(bench.intake.ledger, one)
    await bench.intake.rewind()
    assert bench.source.sought == [{AT: 0, AT1: 0}] * 2
    assert bench.intake.ledger.admit(two) is None


async def test_a_partition_given_up_and_back_within_a_poll_is_read_again(bench: Bench) -> None:
    """Records of before are not admitted: the partition is claimed again and read from there."""
    bench.add(0, 2)
    before = await bench.take()
    bench.intake.revoked([AT], lost=True)
    bench.intake.assigned([AT])
    await until(lambda: len(bench.source.sought) == 2)
    assert bench.intake.ledger.admit(before) is None
    bench.add(0, 2)
    assert bench.intake.ledger.admit(await bench.take()) is not None


async def test_reading_begins_where_the_state_ends(bench: Bench) -> None:
    """Not at the committed offset; and nothing below that is ever committed again."""
    bench.owner.starts = {AT: 3}
    bench.source.commits[AT] = 5
    await bench.intake.rewind()
    assert bench.source.sought[-1] == {AT: 3, AT1: 0}
    bench.add(3, 2)
    ticket, _ = begin(bench.intake.ledger, await bench.take())
    bench.intake.ledger.done([ticket])
    bench.add(5, 2)
    await asyncio.sleep(0.05)
    assert bench.source.commits == {AT: 5}
    ticket, _ = begin(bench.intake.ledger, await bench.take())
    bench.intake.ledger.done([ticket])
    await until(lambda: bench.source.commits == {AT: 7})


async def test_nothing_is_read_until_the_state_is_owned() -> None:
    """A claim that is refused is tried again; meanwhile polling goes on and hands nothing out."""
    bench = Bench()
    bench.owner.refuses = True
    bench.intake.start()
    await until(lambda: bench.owner.claims > 1)
    assert not bench.intake.is_assigned
    bench.owner.refuses = False
    await until(lambda: bench.intake.is_assigned)
    bench.add(0, 2)
    assert len(await bench.take()) == 2
    await bench.intake.stop()


async def test_other_partitions_go_on_while_one_cannot_be_claimed(bench: Bench) -> None:
    """Their records are handed out and committed; those of the new one are left for later."""
    bench.owner.refuses = True
    bench.intake._unclaimed.add(("transactions", 2))
    bench.add(0, 3)
    bench.source.add(record_batch([(2, 0, b"k", b"v"), (0, 3, b"k", b"v")]))
    one, two = await bench.take(), await bench.take()
    assert [*one.offset, *two.offset] == [0, 1, 2, 3]
    assert set(two.partition.tolist()) == {0}
    for batch in (one, two):
        ticket, _ = begin(bench.intake.ledger, batch)
        bench.intake.ledger.done([ticket])
    await until(lambda: bench.source.commits == {AT: 4})
    bench.owner.refuses = False


async def test_stop_drains_within_its_time() -> None:
    """Stop waits for the batch in hand, commits it, and closes the consumer."""
    bench = Bench()
    await bench.start()
    bench.add(0, 5)
    ticket, _ = begin(bench.intake.ledger, await bench.take())
    stopping = asyncio.create_task(bench.intake.stop())
    await asyncio.sleep(0.05)
    bench.intake.ledger.done([ticket])
    await asyncio.wait_for(stopping, 2)
    assert bench.source.commits == {AT: 5}
    assert bench.source.closed


async def test_a_consumer_that_fails_reaches_get() -> None:
    """An exception on the consumer's thread is raised where batches are awaited."""

    def broken(_listener: RebalanceListener) -> Source:
        raise BrokerUnavailable("no route")

    intake = Intake(broken, Ledger(), BatchPolicy(1, 0), LIMITS, Metrics(), Nobody())
    intake.start()
    with pytest.raises(BrokerUnavailable, match="no route"):
        await asyncio.wait_for(intake.get(), 5)
    await intake.stop()


async def test_what_a_rewind_drops_is_not_confirmed(bench: Bench) -> None:
    """Until it has gone back, nobody may write what rests on outputs that were dropped."""
    ticket = bench.intake.ledger.begin({AT: 0})
    bench.owner.refuses = True  # so that it takes a while
    confirmed = asyncio.create_task(bench.intake.confirmed({}, lambda: True))
    await asyncio.sleep(0.05)
    assert not confirmed.done()
    bench.intake.go_back()
    await until(lambda: not bench.intake.ledger.is_open(ticket))
    assert not await asyncio.wait_for(confirmed, 5)
    assert not await bench.intake.confirmed({}, lambda: True)
    bench.owner.refuses = False


async def test_who_waits_for_room_does_not_wait_for_itself(bench: Bench) -> None:
    """A batch's own ticket cannot be done while it waits; those before it must be.

    Offsets of quiet logs, which are committed again meanwhile, are nothing to wait for either.
    """
    ledger = bench.intake.ledger
    before = ledger.begin({AT: 0})
    bench.add(0, 1)
    admitted = ledger.admit(await bench.take())
    assert admitted is not None
    own, _ = admitted
    again = ledger.begin({AT1: 0})
    confirmed = asyncio.create_task(bench.intake.confirmed({}, lambda: True, but_one=True))
    await asyncio.sleep(0.05)
    assert not confirmed.done()
    ledger.done([before])
    assert await asyncio.wait_for(confirmed, 5)
    assert ledger.is_open(own)
    assert ledger.is_open(again)
