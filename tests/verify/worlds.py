"""A deployment in memory whose worker is the real one, and what it leaves behind as evidence.

Logs are lists of records; a worker reads them through `LogSource`, which can go back, and writes
through `LogTransactor`. Tests patch the worker's code and look at what the checker says.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import fastavro
import numpy as np

import schemas
from app.adapters.memory import MemorySource, MemoryStore, MemoryWatermarks
from app.adapters.onnx import OnnxScorer
from app.batching import BatchPolicy
from app.enrich import Enrich
from app.intake import Intake, IntakeLimits
from app.labels import label_writers
from app.ledger import Ledger
from app.live import Live
from app.metrics import Metrics
from app.ownership import Ownership
from app.pipeline import LabelParts, Parts
from app.ports import RebalanceListener, Source, Transactor
from app.records import Outbound, Ragged, RecordBatch, pack_headers
from app.transactions import TransactionalDelivery
from app.watermarks import Watermark
from app.wiring import now_us
from app.worker import Worker
from features.contract import DAY_US
from features.state import LABELS, TRANSACTIONS
from tests.app.test_intake import until
from tests.app.test_pipeline import parts
from verify import Record, Settings
from verify.evidence import Ends
from verify.settings import ROLES

PARTITIONS = 2
TOPICS = {role: role.replace("_", "-") for role in ROLES}
ROLE = {topic: role for role, topic in TOPICS.items()}
NAMESPACE = "checked"
SETTINGS = Settings("", "", "group", TOPICS, PARTITIONS, NAMESPACE)
BEGIN_US = 19_600 * DAY_US
RECORDS_AT_ONCE = 16
LABELS_AHEAD_US = DAY_US // 2
At = tuple[str, int]


@dataclass
class World:
    """Logs by role and partition, committed offsets, blobs; implements `verify.Evidence`.

    `aborted` are offsets of transactions that a reader of committed records never sees; `open` is
    where an open transaction begins.
    """

    logs: dict[At, list[Record]] = field(
        default_factory=lambda: {(role, p): [] for role in ROLES for p in range(PARTITIONS)}
    )
    times_us: dict[At, list[int]] = field(default_factory=dict)
    store: MemoryStore = field(default_factory=MemoryStore)
    marks: MemoryWatermarks = field(default_factory=MemoryWatermarks)
    commits: dict[At, int] = field(default_factory=dict)
    aborted: set[tuple[str, int, int]] = field(default_factory=set)
    open: dict[At, int] = field(default_factory=dict)

    def records(self, role: str, partition: int) -> Iterable[Record]:
        """See `Evidence.records`."""
        end = self.ends(role, partition).stable
        return [
            record
            for record in self.logs[role, partition]
            if record.offset < end and (role, partition, record.offset) not in self.aborted
        ]

    def ends(self, role: str, partition: int) -> Ends:
        """See `Evidence.ends`."""
        end = len(self.logs[role, partition])
        return Ends(0, self.open.get((role, partition), end), end)

    def committed(self, role: str, partition: int) -> int:
        """See `Evidence.committed`."""
        return self.commits.get((TOPICS[role], partition), -1)

    def blobs(self, prefix: bytes) -> Mapping[bytes, bytes]:
        """See `Evidence.blobs`."""
        return {key: blob for key, blob in self.store.blobs.items() if key.startswith(prefix)}

    def add(
        self, role: str, partition: int, key: bytes | None, value: bytes | None, time_us: int
    ) -> int:
        """Append a record; its offset. The broker's time is a little after its own."""
        log = self.logs[role, partition]
        headers = ((("trace", b"7"),)) if time_us % 2 else ()
        log.append(Record(len(log), key, value, headers, time_us // 1000 + 5))
        self.times_us.setdefault((role, partition), []).append(time_us)
        return len(log) - 1

    def declare_complete(self) -> None:
        """Say of every log that nothing comes after what is there."""
        for (role, p), log in list(self.logs.items()):
            if role in ("transactions", "labels"):
                number = TRANSACTIONS if role == "transactions" else LABELS
                mark = Watermark(number, len(log), BEGIN_US + 1000 * DAY_US)
                self.marks.marks.setdefault(p, []).append(mark)
                self.add("watermarks", p, None, mark.encode(SETTINGS.group), BEGIN_US)


def encoded(name: str, fields: Mapping[str, object]) -> bytes:
    """A value in the single-object encoding."""
    its, out = schemas.load(name), io.BytesIO()
    fastavro.schemaless_writer(out, schemas.without_logical_types(its.text), fields)
    return its.single_object_header + out.getvalue()


BROKEN: tuple[tuple[bytes | None, bytes | None], ...] = (
    (None, b"c0"), (b"", b"c0"), (b"{json}", b"c0"), (b"\x00\x00\x00\x00\x63rest", b"c0"),
    (schemas.load("transaction").single_object_header + b"\x02x", b"c0"),
)  # fmt: skip


def filled(seed: int = 1, n: int = 900, days: int = 24) -> World:
    """Payments of few customers at few terminals, some late; outcomes; records that are broken."""
    rng, world = np.random.default_rng(seed), World()
    times = BEGIN_US + np.sort(rng.integers(0, days * DAY_US, n))
    late = np.where(rng.random(n) < 0.1, rng.integers(0, 120_000_000, n), 0)
    told: list[tuple[int, int, bytes, bytes]] = []
    for i, t in enumerate((times - late).tolist()):
        customer, terminal = int(rng.integers(0, 9)), int(rng.integers(0, 5) ** 2 // 4)
        p, key = customer % PARTITIONS, b"c%d" % customer
        its = {
            "transaction_id": f"x{i}", "customer_id": key.decode(), "terminal_id": f"t{terminal}",
            "event_time": t, "amount_minor": int(rng.integers(1, 50_000)), "currency": "EUR",
        }  # fmt: skip
        world.add("transactions", p, key, encoded("transaction", its), t)
        if rng.random() < 0.05:
            value, bad_key = BROKEN[int(rng.integers(0, len(BROKEN)))]
            world.add("transactions", p, bad_key, value, t)
        for fraud in (True, False)[: int(rng.integers(0, 3))]:
            known = t + int(rng.integers(0, 12 * DAY_US))
            its = {name: its[name] for name in ("transaction_id", "customer_id", "terminal_id")}
            its |= {"event_time": t, "known_at": known, "fraud": fraud, "source": "ANALYST"}
            told.append((known, p, key, encoded("fraud_label", its)))
    for known, p, key, value in sorted(told):
        world.add("labels", p, key, value if known % 50 else value + b"\x00", known)
    world.declare_complete()
    return world


class LogSource(MemorySource):
    """Reads a world's input logs, the earliest records first, from wherever it is sent to."""

    def __init__(self, world: World, listener: RebalanceListener) -> None:
        super().__init__(listener, [("transactions", p) for p in range(PARTITIONS)], ["labels"])
        self.world, self.commits = world, world.commits
        self.position: dict[At, int] = {}
        self.reads_aborted = False

    def poll(self, records_max: int, wait_ms: int, linger_ms: int) -> list[RecordBatch]:
        """See `Source.poll`."""
        super().poll(records_max, min(wait_ms, 1), linger_ms)
        heads = {
            at: times[self.position[at]] - (LABELS_AHEAD_US if at[0] == "labels" else 0)
            for at, times in self.world.times_us.items()
            if at in self.position and self.position[at] < len(times) and at not in self.paused
        }
        if not heads:
            return []
        role, p = at = min(heads, key=heads.__getitem__)
        first = self.position[at]
        records = self.world.logs[at][first : first + RECORDS_AT_ONCE]
        self.position[at] = first + len(records)
        hidden = set() if self.reads_aborted else self.world.aborted
        seen = [r for r in records if (role, p, r.offset) not in hidden]
        return [batch(role, p, seen)] if seen else []

    def seek(self, offsets: Mapping[At, int]) -> None:
        """See `Source.seek`."""
        super().seek(offsets)
        self.position |= offsets

    def is_at_end(self) -> bool:
        """Whether all that is there was read."""
        return all(
            self.position.get(at, -1) == len(self.world.logs[at])
            for at in self.world.logs
            if at[0] in ("transactions", "labels")
        )


def batch(topic: str, partition: int, records: list[Record]) -> RecordBatch:
    """Records as a consumer gives them."""
    n = len(records)
    return RecordBatch(
        topic,
        np.full(n, partition, np.int32),
        np.array([r.offset for r in records], np.int64),
        np.array([r.timestamp_ms for r in records], np.int64),
        np.full(n, 2, np.int8),
        Ragged.of([r.key for r in records]),
        Ragged.of([r.value for r in records]),
        Ragged.of([pack_headers(r.headers) for r in records]),
        now_us(),
    )


class LogTransactor:
    """Appends to a world's logs, outputs and offsets at once."""

    def __init__(self, world: World, source: Callable[[], LogSource]) -> None:
        self.world, self.source = world, source
        self.closed = False

    def is_troubled(self) -> bool:
        """See `Transactor.is_troubled`."""
        return False

    def transact(
        self, outbounds: Iterable[Outbound], offsets: Mapping[At, int], group: object
    ) -> None:
        """See `Transactor.transact`."""
        del group
        self.append(outbounds)
        self.commit(offsets)

    def append(self, outbounds: Iterable[Outbound]) -> None:
        """Let outputs be in the logs."""
        for outbound in outbounds:
            for columns in outbound.columns:
                for i, p in enumerate(columns.partition.tolist()):
                    role = ROLE[columns.topic]
                    self.world.add(role, p, columns.keys[i], columns.values[i], BEGIN_US)
            for letter in outbound.letters:
                log = self.world.logs[ROLE[letter.topic], letter.partition]
                headers = tuple((h.name, h.value) for h in letter.headers)
                log.append(Record(len(log), letter.key, letter.value, headers))

    def commit(self, offsets: Mapping[At, int]) -> None:
        """Let offsets be committed."""
        self.source().commit(offsets, wait=True)

    def close(self, timeout_ms: int) -> None:
        """See `Transactor.close`."""
        del timeout_ms
        self.closed = True


class Deployment:
    """One worker on a world."""

    def __init__(
        self, world: World, scorer: OnnxScorer, transactor: type[LogTransactor] = LogTransactor
    ) -> None:
        self.world, self._transactor = world, transactor
        self._opened: LogSource | None = None
        self.reads_aborted = False
        metrics = Metrics()
        live = Live(scorer.timing, PARTITIONS, 4096, 8192, NAMESPACE)
        topics = (TOPICS["transactions"], TOPICS["labels"])
        self.owner = Ownership(
            live, world.store, topics, "w1", "here", metrics, now_us, flush_s=0.02,
            marks=world.marks, fencer=lambda _: None,
        )  # fmt: skip
        enrich = Enrich(live, world.store, now_us, self.owner.backoff, self.owner.make_room)
        its: Parts = parts(
            enrich=enrich, scorer=scorer, policy=scorer.policy, explainer=scorer.explainer,
            clock=now_us, backoff=self.owner.backoff,
        )  # fmt: skip
        limits = IntakeLimits(2, 1, 1.0, commits_itself=False)
        self.ledger = Ledger()
        intake = Intake(self._open, self.ledger, BatchPolicy(100, 3), limits, metrics, self.owner)

        def began(transactional_id: str) -> None:
            self.owner.transactional_id = transactional_id

        delivery = TransactionalDelivery(self._transact, intake, "group.w1", began, 1000)
        self.worker = Worker(
            its, metrics, intake, self.owner, LabelParts(topics[1], label_writers()), delivery
        )

    @property
    def source(self) -> LogSource:
        """The consumer, once it is open."""
        assert self._opened is not None
        return self._opened

    def _open(self, listener: RebalanceListener) -> Source:
        self._opened = LogSource(self.world, listener)
        self._opened.reads_aborted = self.reads_aborted
        return self._opened

    def _transact(self, transactional_id: str) -> Transactor:
        del transactional_id
        return self._transactor(self.world, lambda: self.source)

    def is_done(self) -> bool:
        """Whether everything was read, has left and is in the store."""
        if self._opened is None or not self.source.is_at_end():
            return False
        return self.ledger.wait_idle(None, 0) and not self.owner.live.is_ahead()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The worker as Faust's agent would drive it; drained at the end."""
        self.worker.delivery.open()
        self.worker.intake.start()

        async def work() -> None:
            while True:
                await self.worker.handle(await self.worker.intake.get())

        agent = asyncio.create_task(work())
        try:
            yield
        finally:
            await self.worker.drain()
            agent.cancel()


async def run(deployment: Deployment, done: Callable[[], bool] | None = None) -> World:
    """Let a worker work until it is done, and stop it."""
    async with deployment.running():
        await until(done or deployment.is_done, 90)
    return deployment.world
