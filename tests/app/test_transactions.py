"""Outputs and offsets in one transaction: what is committed, and what doubt does. In memory."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import pytest

from app.adapters.memory import MemorySource, MemoryTransactor
from app.batching import BatchPolicy
from app.delivery import Output
from app.errors import BrokerUnavailable
from app.intake import Intake, IntakeLimits
from app.ledger import Ledger
from app.metrics import Metrics
from app.ports import RebalanceListener, Source, Transactor
from app.records import Outbound
from app.transactions import TransactionalDelivery
from tests.app.builders import Nobody, record_batch
from tests.app.test_intake import until

AT = ("transactions", 0)


class Bench:
    """An intake and a transactional way out over memory; a batch's output names its offsets."""

    def __init__(self) -> None:
        self._opened: MemorySource | None = None
        self.transactors: list[MemoryTransactor] = []
        self.ids: list[str] = []
        self.owner = Nobody()
        limits = IntakeLimits(2, 1, 1.0, commits_itself=False)
        self.metrics = Metrics()
        self.intake = Intake(
            self._open, Ledger(), BatchPolicy(100, 3), limits, self.metrics, self.owner
        )
        self.delivery = TransactionalDelivery(
            self._transactor, self.intake, "group.w1", self.ids.append, 100
        )
        self.sent: list[str] = []

    @property
    def source(self) -> MemorySource:
        """The consumer, once the intake has opened it."""
        assert self._opened is not None
        return self._opened

    def _open(self, listener: RebalanceListener) -> Source:
        self._opened = MemorySource(listener, [AT])
        return self._opened

    def _transactor(self, transactional_id: str) -> Transactor:
        assert transactional_id == self.ids[-1], "the owner hears of an id before it is used"
        self.transactors.append(MemoryTransactor(lambda: self.source))
        return self.transactors[-1]

    def add(self, first: int, count: int) -> None:
        """Let records come whose offsets begin with `first`."""
        self.source.add(record_batch([(0, first + i, None, None) for i in range(count)]))

    async def run(self) -> None:
        """Send a record a batch; more than the batch's name is not needed."""
        while True:
            batch = await self.intake.get()
            self.intake.taken()
            if (admitted := self.intake.ledger.admit(batch)) is None:
                continue
            ticket, records = admitted
            name = f"{records.offset[0]}+{len(records)}"
            outbound = Outbound((), (), name)

            def sent(name: str = name) -> None:
                self.sent.append(name)

            def encode(outbound: Outbound = outbound) -> Outbound:
                return outbound

            await self.delivery.send(Output(len(records), encode, sent), ticket)

    def committed(self) -> list[tuple[list[str], dict[tuple[str, int], int]]]:
        """What each transaction held: names of batches, and offsets."""
        every = itertools.chain.from_iterable(each.committed for each in self.transactors)
        return [([out.source_topic for out in outs], offsets) for outs, offsets in every]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Running; stopped at the end."""
    bench = Bench()
    bench.delivery.open()
    bench.intake.start()
    agent = asyncio.create_task(bench.run())
    await until(lambda: bench.intake.is_assigned and len(bench.transactors) > 0)
    yield bench
    bench.transactors[-1].holding.set()
    await bench.intake.stop()
    await bench.delivery.close()
    agent.cancel()
    assert all(transactor.closed for transactor in bench.transactors)


async def test_outputs_and_offsets_are_in_one_transaction(bench: Bench) -> None:
    """Nothing is committed beside it; what waits while one is under way is in the next."""
    bench.add(0, 3)
    await until(lambda: bench.committed() == [(["0+3"], {AT: 3})])
    [transactor] = bench.transactors
    transactor.holding.clear()
    bench.add(3, 1)
    await asyncio.sleep(0.1)
    bench.add(4, 1)
    bench.add(5, 1)
    await asyncio.sleep(0.1)
    assert bench.sent == ["0+3"]
    assert bench.source.commits == {AT: 3}
    transactor.holding.set()
    await until(lambda: bench.source.commits == {AT: 6})
    assert [names for names, _ in bench.committed()] == [["0+3"], ["3+1"], ["4+1", "5+1"]]
    assert bench.sent == ["0+3", "3+1", "4+1", "5+1"]
    assert bench.intake.committed(AT) == 6


@pytest.mark.parametrize("failing", ["before", "after"])
async def test_doubt_throws_the_producer_away_and_asks_kafka(bench: Bench, failing: str) -> None:
    """Committed or not: the next incarnation goes on from what Kafka says, once everything is."""
    bench.add(0, 3)
    await until(lambda: bench.source.commits == {AT: 3})
    bench.transactors[0].failing = failing
    bench.add(3, 2)
    await until(lambda: len(bench.transactors) == 2, 5)
    assert bench.transactors[0].closed
    assert len(set(bench.ids)) == 2
    assert bench.owner.claims == 2, "everything is claimed again"
    at = 3 if failing == "before" else 5
    assert bench.source.sought[-1] == {AT: at}
    bench.add(at, 4)
    await until(lambda: bench.source.commits == {AT: at + 4})
    offsets = [offsets[AT] for _, offsets in bench.committed()]
    assert offsets == sorted(set(offsets))


async def test_a_group_that_moved_on_is_no_doubt(bench: Bench) -> None:
    """Nothing of it is committed for certain: the same outputs go again, under the same id."""
    bench.add(0, 3)
    await until(lambda: bench.source.commits == {AT: 3})
    bench.transactors[0].failing = "moved"
    bench.add(3, 2)
    await until(lambda: bench.source.commits == {AT: 5})
    assert [transactor.closed for transactor in bench.transactors] == [True, False]
    assert len(bench.ids) == 1
    assert bench.owner.claims == 1, "nothing is read again"
    assert [names for names, _ in bench.committed()] == [["0+3"], ["3+2"]]
    assert bench.sent == ["0+3", "3+2"]
    assert _commits(bench, "failed") == 0


async def test_a_doubt_is_counted_as_a_failed_commit(bench: Bench) -> None:
    """Also what Kafka may have committed: nobody knows."""
    bench.transactors[0].failing = "after"
    bench.add(0, 3)
    await until(lambda: len(bench.transactors) == 2, 5)
    assert _commits(bench, "failed") == 1
    assert _commits(bench, "ok") == 0


def _commits(bench: Bench, result: str) -> float:
    labels = {"result": result}
    return bench.metrics.registry.get_sample_value("riskwire_commits_total", labels) or 0.0


async def test_offsets_of_a_quiet_log_are_committed_again(bench: Bench) -> None:
    """In a transaction of their own if need be, once: the group would forget them."""
    bench.add(0, 3)
    await until(lambda: bench.source.commits == {AT: 3})
    bench.intake._commit_again_at = 0
    await until(lambda: bench.committed()[1:] == [([], {AT: 3})])
    bench.add(3, 1)
    await until(lambda: bench.source.commits == {AT: 4})
    assert bench.committed()[2:] == [(["3+1"], {AT: 4})]


async def test_offsets_that_are_moving_are_not_committed_again(bench: Bench) -> None:
    """An older one of the same log must not go out after a newer one."""
    bench.add(0, 3)
    await until(lambda: bench.source.commits == {AT: 3})
    bench.transactors[0].holding.clear()
    bench.add(3, 1)
    await asyncio.sleep(0.1)
    bench.intake._commit_again_at = 0
    await until(lambda: bench.intake.again > 0)
    bench.transactors[0].holding.set()
    await until(lambda: bench.source.commits == {AT: 4} and not bench.delivery._is_again())
    assert bench.committed()[1:] == [(["3+1"], {AT: 4})]


async def test_going_back_waits_for_the_transaction_that_is_under_way(bench: Bench) -> None:
    """Else its offsets would be committed after they were read, and its records sent again."""
    bench.transactors[0].holding.clear()
    bench.add(0, 3)
    await asyncio.sleep(0.1)
    bench.intake.go_back()
    await asyncio.sleep(0.1)
    assert len(bench.source.sought) == 1
    bench.transactors[0].holding.set()
    await until(lambda: len(bench.source.sought) == 2)
    assert bench.source.sought[1] == {AT: 3}


async def test_after_trouble_in_between_a_new_producer_takes_over_the_id(bench: Bench) -> None:
    """No transaction was open: nothing is in doubt, nothing is claimed again."""
    bench.add(0, 3)
    await until(lambda: bench.source.commits == {AT: 3})
    bench.transactors[0].troubled = True
    bench.add(3, 2)
    await until(lambda: bench.source.commits == {AT: 5})
    assert bench.transactors[0].closed
    assert len(bench.transactors) == 2
    assert len(bench.ids) == bench.owner.claims == 1


async def test_a_transaction_that_does_not_end_ends_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that never comes back is no reason to wait for ever: start anew."""
    bench.transactors[0].holding.clear()
    bench.add(0, 1)
    await asyncio.sleep(0.1)
    assert not bench.delivery.is_stuck
    monkeypatch.setattr("app.transactions.STUCK_S", 0.05)
    await asyncio.sleep(0.1)
    assert bench.delivery.is_stuck
    with pytest.raises(BrokerUnavailable, match="does not end"):
        await bench.delivery.send(Output(1, lambda: Outbound((), (), "x")), 1)


async def test_what_is_lost_is_committed_by_nobody(bench: Bench) -> None:
    """Batches in hand when a partition is lost are dropped, whole."""
    bench.transactors[0].holding.clear()
    bench.add(0, 1)
    await asyncio.sleep(0.1)
    bench.add(1, 2)
    await asyncio.sleep(0.1)
    bench.intake.revoked([AT], lost=True)
    bench.transactors[0].holding.set()
    await asyncio.sleep(0.3)
    assert all("1+2" not in names for names, _ in bench.committed())
    assert bench.source.commits.get(AT, 0) <= 1


async def test_a_revoke_waits_no_longer_than_the_drain_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a transaction that does not end; then it is the next owner's to fence."""
    monkeypatch.setattr("app.intake._LEAVE_S", 30.0)
    bench.transactors[0].holding.clear()
    bench.add(0, 1)
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await asyncio.to_thread(bench.intake.revoked, [AT], lost=False)
    assert 1 <= time.monotonic() - began < 30
    assert ([0], True) in bench.owner.released


async def test_at_most_so_many_records_wait(bench: Bench) -> None:
    """A batch beyond the bound waits with its records, and goes out later."""
    bench.transactors[0].holding.clear()
    bench.add(0, 1)
    await asyncio.sleep(0.1)
    for first in (1, 61, 121):
        bench.add(first, 60)
    await asyncio.sleep(0.2)
    assert len(bench.delivery._waiting) == 1
    bench.transactors[0].holding.set()
    await until(lambda: bench.source.commits == {AT: 181})


async def test_nothing_overtakes_a_batch_that_waits_for_room(bench: Bench) -> None:
    """A watermark's offset stands for all before it: it goes after them, or they would be lost."""
    bench.transactors[0].holding.clear()
    bench.add(0, 1)
    await asyncio.sleep(0.1)
    for first in (1, 61):
        bench.add(first, 60)
    await asyncio.sleep(0.1)
    ticket = bench.intake.ledger.begin({AT: 121})
    mark = Output(1, lambda: Outbound((), (), "mark"), waits=False)
    going = asyncio.create_task(bench.delivery.send(mark, ticket))
    await asyncio.sleep(0.1)
    bench.transactors[0].holding.set()
    assert await asyncio.wait_for(going, 5)
    await until(lambda: bench.source.commits == {AT: 121})
    sent = [(name, offsets[AT]) for names, offsets in bench.committed() for name in names]
    assert [name for name, _ in sent] == ["0+1", "1+60", "61+60", "mark"]
    assert [offset for _, offset in sent][:2] == [1, 61]


async def test_a_group_that_goes_on_moving_is_doubt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs are not sent again for ever."""
    monkeypatch.setattr("app.transactions.MOVED_MAX", 2)
    bench.transactors[0].failing = "moved"
    make = bench.delivery._open_transactor

    def moving(transactional_id: str) -> Transactor:
        transactor = make(transactional_id)
        if len(bench.transactors) <= 3:
            bench.transactors[-1].failing = "moved"
        return transactor

    monkeypatch.setattr(bench.delivery, "_open_transactor", moving)
    bench.add(0, 3)
    await until(lambda: len(bench.source.sought) == 2, 5)
    bench.add(0, 3)  # read again
    await until(lambda: bench.source.commits == {AT: 3}, 5)
    assert len(bench.transactors) == 4
    assert len(bench.ids) == 2
    assert _commits(bench, "failed") == 1


async def test_a_new_id_holds_from_the_next_transaction_on(bench: Bench) -> None:
    """Nothing is in doubt and nothing is dropped; the owner has heard of it before."""
    bench.add(0, 2)
    await until(lambda: bench.committed() == [(["0+2"], {AT: 2})])
    bench.delivery.renew()
    assert len(set(bench.ids)) == 2
    bench.add(2, 1)
    await until(lambda: bench.committed()[1:] == [(["2+1"], {AT: 3})])
    first, second = bench.transactors
    assert first.closed
    assert len(second.committed) == 1
    assert bench.owner.claims == 1


async def test_at_most_so_many_bytes_wait(bench: Bench) -> None:
    """Also of batches that send nothing: what they came of is in memory all the same."""
    delivery, ledger = bench.delivery, bench.intake.ledger
    bench.transactors[0].holding.clear()
    tickets = [ledger.begin({AT: offset}) for offset in (1, 2, 3, 4)]
    nothing = Outbound((), (), "in")
    large = Output(0, lambda: nothing, nbytes=40 << 20)
    assert await delivery.send(Output(1, lambda: nothing), tickets[0])
    await until(lambda: not delivery._waiting)  # the thread took it, and its transaction hangs
    assert await delivery.send(large, tickets[1])
    waiting = asyncio.create_task(delivery.send(large, tickets[2]))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    bench.transactors[0].holding.set()
    assert await asyncio.wait_for(waiting, 10)


async def test_who_stops_in_doubt_commits_nothing_more(bench: Bench) -> None:
    """What waits comes after what is in doubt: its offsets would say that both went out."""
    bench.add(0, 3)
    await until(lambda: bench.source.commits == {AT: 3})
    bench.transactors[0].failing = "before"
    bench.add(3, 2)
    await until(lambda: bench.delivery.failing)
    bench.add(5, 2)
    await until(lambda: len(bench.delivery._waiting) == 1)
    await bench.intake.stop()
    await asyncio.to_thread(bench.delivery._thread.join, 5)
    assert not bench.delivery._thread.is_alive()
    assert bench.source.commits == {AT: 3}
