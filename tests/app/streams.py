"""Logs as topics, and workers that read them into live states which share a store; for tests.

`Stream` knows the offline vectors of its log and compares every vector that comes out with them.
`Worker` does around `app.live.Live` what `app.ownership` and `app.enrich` do in production.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from app.adapters.memory import MemoryStore, MemoryWatermarks
from app.backoff import Backoff
from app.enrich import Enrich
from app.labels import Labels
from app.live import Frozen, Live
from app.meta import Meta
from app.records import Float32s, Int64s, Ragged
from app.watermarks import Watermark
from features import blob
from features.contract import DAY_US, LIVE, Timing
from features.offline import Log, vectors
from features.state import LABELS, TRANSACTIONS, Flags
from tests.app.builders import record_batch, transactions

START_US = 19_000 * DAY_US
BATCH = 12


def random_log(
    seed: int, n: int, partitions: int, timing: Timing, people: int = 15, places: int = 8,
    frauds: float = 0.4,
) -> Log:  # fmt: skip
    """Transactions of 45 days in order of time, some at one instant; most have an outcome."""
    rng = np.random.default_rng(seed)
    t = START_US + np.sort(rng.integers(0, 45 * 24 * 4, n)) * (DAY_US // 96)
    customer = rng.integers(0, people, n).astype(np.int32)
    return Log.of(
        customer,
        (rng.integers(0, places, n) ** 2 // 6).astype(np.int32),
        t,
        rng.integers(0, 50_000, n),
        rng.choice([-1, 0, 1], n, p=[0.1, 0.9 - frauds, frauds]).astype(np.int8),
        (customer % partitions).astype(np.int32),
        timing,
    )


def shuffled(log: Log, seed: int, within_us: int) -> Log:
    """The same records, each late by less than `within_us`."""
    rng = np.random.default_rng(seed)
    order = np.argsort(log.event_time_us + rng.integers(0, within_us, len(log)), kind="stable")
    return Log(*(getattr(log, name)[order] for name in log.__slots__))


@dataclass
class Topic:
    """A log cut into partitions: the row of each offset, and the offset of each row."""

    rows: dict[int, Int64s]
    offsets: Int64s

    @classmethod
    def of(cls, order: Int64s, partition: Int64s, partitions: int) -> "Topic":
        """Rows of a log in the order in which they were produced."""
        rows = {p: order[partition[order] == p] for p in range(partitions)}
        offsets = np.full(len(partition), -1)
        for places in rows.values():
            offsets[places] = np.arange(len(places))
        return cls(rows, offsets)


@dataclass
class Stream:
    """A log as two topics, a store, and the vectors that came out."""

    log: Log
    partitions: int
    timing: Timing
    store: MemoryStore = field(default_factory=MemoryStore)
    marks: MemoryWatermarks = field(default_factory=MemoryWatermarks)
    now_us: int = 0
    computed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.expected = vectors(self.log, self.timing)
        partition = self.log.partition.astype(np.int64)
        told = np.flatnonzero(self.log.fraud >= 0)
        told = told[np.argsort(self.log.known_at_us[told], kind="stable")]
        n = len(self.log)
        self.topics = (
            Topic.of(np.arange(n), partition, self.partitions),
            Topic.of(told, partition, self.partitions),
        )
        rank = np.empty(n, np.int64)
        rank[told] = np.arange(len(told))
        self.order = (np.arange(n), rank)
        self.until_us = np.maximum.accumulate(self.log.event_time_us)

    def clock(self) -> int:
        """So late that copies may be read again at any time."""
        self.now_us += 10_000_000
        return self.now_us

    def check(self, rows: Int64s, matrix: Float32s, provisional: Flags) -> None:
        """Compare what was computed with what must come out."""
        final = ~provisional
        self.computed["final"] += int(final.sum())
        self.computed["provisional"] += int(provisional.sum())
        wrong = (matrix != self.expected[rows]).any(axis=1) & final
        assert not wrong.any(), (rows[wrong][0], matrix[wrong][0], self.expected[rows[wrong]][0])


class Worker:
    """One worker's live state, with what `Ownership` does around it."""

    def __init__(self, stream: Stream, name: str, customers_max: int, shares_max: int) -> None:
        self.stream, self.name = stream, name
        self.live = Live(stream.timing, stream.partitions, customers_max, shares_max)
        self.enrich = Enrich(self.live, stream.store, stream.clock, Backoff(), self.flush)
        self.flushes = 0
        self.late: list[Frozen] = []

    async def claim(self, *partitions: int) -> None:
        """Own partitions as the store has them."""
        await self.finish_flush()
        for p in partitions:
            key = blob.meta_key(self.live.namespace, p)
            [value] = await self.stream.store.fetch([key])
            meta = (Meta.parse(value) or Meta(self.stream.partitions)).owned_by(self.name)
            assert await self.stream.store.flush(key, value, meta.encode(), [])
            self.live.adopt(p, meta, (0, 0))
            [(marks, next_mark)] = (await self.stream.marks.read({p: meta.next_mark})).values()
            self.live.next_mark[p] = next_mark
            for mark in marks:
                self.live.declare(p, mark)

    async def flush(self) -> None:
        """Write all that changed."""
        self.flushes += 1
        await self.begin_flush()
        await self.finish_flush()

    async def begin_flush(self) -> None:
        """Freeze what changed; it is on its way, and more may change meanwhile."""
        await self.finish_flush()
        self.late = self.live.freeze()

    async def finish_flush(self, *, fails: bool = False) -> None:
        """Let what is on its way arrive, or not."""
        images, self.late = self.late, []
        for image in images:
            guard = blob.meta_key(self.live.namespace, image.partition)
            before, after = image.before.encode(), image.after.encode()
            if not fails:
                self.live.writing(image)
                assert await self.stream.store.flush(guard, before, after, image.pairs)
                self.live.flushed(image)
            self.live.thaw(image)

    def waiting(self, log: int) -> Int64s:
        """Rows of a log that this worker has still to read, in its order."""
        topic, offsets = self.stream.topics[log], self.live.next_offset
        rows = [topic.rows[p][offsets[log, p] :] for p in sorted(self.live.owned)]
        together = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64)
        return together[np.argsort(self.stream.order[log][together], kind="stable")]

    async def read(self, count: int, ahead_us: int) -> int:
        """Compute the next transactions' vectors, after the outcomes known by then; how many."""
        log = self.stream.log
        rows = self.waiting(TRANSACTIONS)[:count]
        if not len(rows):
            return 0
        until_us = int(self.stream.until_us[rows[-1]]) + ahead_us
        told = self.waiting(LABELS)
        await self.learn(told[log.known_at_us[told] <= until_us])
        its = transactions(
            [
                {
                    "customer_id": f"c{log.customer[i]}",
                    "terminal_id": f"t{log.terminal[i]}",
                    "partition": log.partition[i],
                    "offset": self.stream.topics[TRANSACTIONS].offsets[i],
                    "event_time_us": log.event_time_us[i],
                    "amount_minor": log.amount_minor[i],
                }
                for i in rows
            ]
        )
        records = record_batch(self._places(TRANSACTIONS, rows))
        matrix, provisional, degraded = await self.enrich.vectors(records, its)
        self.stream.computed["degraded"] += int(degraded.sum())
        self.stream.check(rows, matrix, provisional | degraded)
        return len(rows)

    async def learn(self, rows: Int64s) -> None:
        """Let the state know outcomes, some at a time."""
        for first in range(0, len(rows), BATCH):
            some = rows[first : first + BATCH]
            records = record_batch(self._places(LABELS, some), topic="labels")
            await self.enrich.learn(records, self.labels(some))

    def labels(self, rows: Int64s) -> Labels:
        """The outcomes of transactions."""
        log = self.stream.log
        return Labels(
            row=np.arange(len(rows)),
            partition=log.partition[rows],
            offset=self.stream.topics[LABELS].offsets[rows],
            event_time_us=log.event_time_us[rows],
            known_at_us=log.known_at_us[rows],
            fraud=log.fraud[rows],
            tag=rows * 2_654_435_761 % 2**32,
            terminals=Ragged.of([b"t%d" % i for i in log.terminal[rows]]),
        )

    def _places(self, log: int, rows: Int64s) -> list[tuple[int, int, None, None]]:
        partition, offsets = self.stream.log.partition, self.stream.topics[log].offsets
        return [(int(partition[i]), int(offsets[i]), None, None) for i in rows]

    def declare_quiet(self) -> None:
        """Say of all logs that nothing older comes: what the clock says where there is no record.

        Of transactions up to the next one that may come, of outcomes up to what was read.
        """
        coming = self.waiting(TRANSACTIONS)
        if not len(coming):
            return
        late_us = self.stream.timing.lateness_us
        told = self.waiting(LABELS)
        known_us = self.stream.log.known_at_us[told]
        for p in self.live.owned:
            quiet(self.live, TRANSACTIONS, p, int(self.stream.until_us[coming[0]]) - late_us)
            if len(told):
                quiet(self.live, LABELS, p, int(known_us.min()))


def quiet(live: Live, log: int, partition: int, until_us: int) -> None:
    """Declare a log complete from where it is read on."""
    live.declare(partition, Watermark(log, live.next_offset[log, partition], until_us))


def one_each(n: int = 3, partitions: int = 1) -> Stream:
    """Transactions of n customers at n terminals, an hour apart, each a fraud known at once."""
    who = np.arange(n, dtype=np.int32)
    t = START_US + who.astype(np.int64) * (DAY_US // 24)
    columns = who, who, t, np.full(n, 500), (who % partitions).astype(np.int32)
    return Stream(Log(*columns, np.ones(n, np.int8), t + 1), partitions, LIVE)
