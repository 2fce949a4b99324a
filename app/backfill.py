"""Past transactions into the online store: the state that the stream would have left there.

In: a history from a file or from the simulator, and the instant as of which it is told. Out: blobs
and one `Meta` for each partition in Redis, made by the kernel that the stream runs and found by the
worker that claims the partition next. What became known after that instant is left to the labels
topic. The rule: the history ends before the first record of the transactions topic, which is read
from its beginning afterwards.

A partition is taken like an owner takes it. While it is being written its `Meta` is one that
nobody can read, which a worker takes for none: a backfill that ends half-way leaves nothing that
counts, and running it again gives the same blobs. Raises ConfigError for a history that cannot be
used and where a worker owns a partition, StoreUnavailable where Redis is away.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app.adapters.redis import RedisStore
from app.config import Settings
from app.demo.traffic import divided, past_log
from app.errors import ConfigError
from app.history import PastLog, read_history
from app.meta import Meta, namespace
from app.partitioner import partition_of
from app.ports import StateStore
from app.records import Int32s, Int64s
from app.rewrite import Rewrite, refuse_owned
from app.snapshots import forget, writing
from features import kernel
from features.blob import customer_key, meta_key, pack_customers, pack_shares, share_key
from features.contract import Timing, contract_id
from features.offline import Log, replay
from features.state import State
from models import manifest
from models.handbook import World

OWNER = "backfill"
CHUNK_BLOBS = 5_000

T = TypeVar("T")
Pairs = list[tuple[bytes, bytes]]
Progressed = Callable[[int, int], None]


class Written(NamedTuple):
    """What a backfill did; a terminal's blobs are its shares, one for each partition."""

    transactions: int
    customers: int
    terminals: int
    blobs: int


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The rows of a history that are of one partition, and whose they are."""

    partition: int
    rows: Int64s
    customers: Int64s
    terminals: Int64s

    def __len__(self) -> int:
        return len(self.customers) + len(self.terminals)


async def backfill(
    store: StateStore,
    past: PastLog,
    as_of_us: int,
    timing: Timing,
    partitions: int,
    on_progress: Progressed = lambda _done, _total: None,
    name: str = "",
    snapshot_dir: Path | None = None,
) -> Written:
    """Let the store hold the state as of `as_of_us`, of all partitions, and nothing else.

    With `snapshot_dir` it is kept there too, in place of all snapshots of before.

    A customer's partition is the one that Kafka's partitioner gives its token. Raises ConfigError
    where a transaction is later, and where a worker owns a partition or claims it meanwhile.
    """
    if len(past) and int(past.log.event_time_us.max()) > as_of_us:
        raise ConfigError("the history goes beyond the time as of which it is to be told")
    contract = namespace(contract_id(timing), name)
    found = await store.fetch([meta_key(contract, p) for p in range(partitions)])
    for p, value in enumerate(found):
        refuse_owned(p, value)
    parts, done = _cut(past, partitions), 0
    total = sum(len(part) for part in parts)
    for part, value in zip(parts, found, strict=True):
        state = _state(past, part, as_of_us, timing)
        pairs = _pairs(contract, past, part, state)
        write = Rewrite(store, contract, part.partition)
        await write.begin(value)
        if snapshot_dir is not None:
            forget(snapshot_dir, contract, part.partition)  # they go on from another past
        meta = _meta(state, pairs, partitions, write.epoch, as_of_us, timing)
        for first in range(0, len(pairs), CHUNK_BLOBS):
            on_progress(done, total)
            await write.go_on(pairs[first : first + CHUNK_BLOBS])
            done += len(pairs[first : first + CHUNK_BLOBS])
        await write.end(meta)
        if snapshot_dir is not None:
            with writing(snapshot_dir, contract, part.partition, meta) as out:
                out.add(pairs)
    on_progress(done, total)
    terminals = np.unique(np.concatenate([part.terminals for part in parts]))
    return Written(len(past), sum(len(part.customers) for part in parts), len(terminals), total)


def _cut(past: PastLog, partitions: int) -> list[_Part]:
    of_token = [partition_of(token, partitions) for token in past.customer_tokens]
    partition = np.array(of_token, np.int32)[past.log.customer]
    parts = []
    for p in range(partitions):
        rows = np.flatnonzero(partition == p)
        customers, terminals = (
            np.unique(whose[rows]).astype(np.int64)
            for whose in (past.log.customer, past.log.terminal)
        )
        parts.append(_Part(p, rows, customers, terminals))
    return parts


def _state(past: PastLog, part: _Part, as_of_us: int, timing: Timing) -> State:
    """The state of a partition alone: its rows are the places in `customers` and `terminals`."""
    log, rows = past.log, part.rows
    terminal = _places(part.terminals, log.terminal[rows])
    partition, unknown = np.zeros(len(rows), np.int32), np.full(len(rows), -1, np.int8)
    times, known_us = log.event_time_us[rows], log.known_at_us[rows]
    payments = Log(
        _places(part.customers, log.customer[rows]), terminal, times, log.amount_minor[rows],
        partition, unknown, known_us,
    )  # fmt: skip
    _, state = replay(payments, timing)
    fraud = log.fraud[rows]
    told = np.flatnonzero((fraud >= 0) & (known_us <= as_of_us))
    told = told[np.argsort(known_us[told], kind="stable")]
    kernel.learn(
        state, terminal[told], partition[told], times[told], known_us[told],
        past.tags[rows[told]], fraud[told],
    )  # fmt: skip
    return state


def _places(among: Int64s, values: Int32s) -> Int32s:
    return np.searchsorted(among, values).astype(np.int32)


def _meta(
    state: State, pairs: Pairs, partitions: int, epoch: int, as_of_us: int, timing: Timing
) -> Meta:
    """Nobody's state, from which the logs go on at their beginnings."""
    newest = state.newest_us[:, 0]
    # No record of before is awaited, but one that is late by the lateness is still in time.
    complete_us = as_of_us - timing.lateness_us
    told = hashlib.blake2b(digest_size=8)
    for pair in pairs:
        told.update(b"".join(pair))
    return replace(
        Meta(partitions, epoch).owned_by(OWNER),
        released=True,
        newest_us=(int(newest[0]), int(newest[1])),
        quiet_us=(complete_us, complete_us),
        base=told.hexdigest(),
    )


def _pairs(contract: str, past: PastLog, part: _Part, state: State) -> Pairs:
    names = [
        *(customer_key(contract, part.partition, past.customer_tokens[i]) for i in part.customers),
        *(share_key(contract, part.partition, past.terminal_tokens[i]) for i in part.terminals),
    ]
    blobs = [
        *pack_customers(state, np.arange(len(part.customers), dtype=np.int32)),
        *pack_shares(state, np.arange(len(part.terminals), dtype=np.int32)),
    ]
    return list(zip(names, blobs, strict=True))


def run(settings: Settings, path: Path | None, seed: int, days: int) -> None:
    """Backfill from a file, or simulated history where there is none, with a progress bar."""
    timing = manifest.read(settings.model).manifest.timing
    if path is None:
        as_of_us = time.time_ns() // 1000
        past = past_log(divided(World(seed), 0, as_of_us, days)[0], timing)
    else:
        past = read_history(path, timing)
        as_of_us = int(past.log.event_time_us[-1])
    began = time.monotonic()
    columns = (TextColumn("writing state"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("")

        def show(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        written = asyncio.run(
            with_store(
                settings,
                lambda store: backfill(
                    store,
                    past,
                    as_of_us,
                    timing,
                    settings.partitions,
                    show,
                    settings.state_namespace,
                    settings.snapshot_dir,
                ),
            )
        )
    until = datetime.fromtimestamp(as_of_us // 1_000_000, UTC)
    Console().print(
        f"{written.transactions:,} transactions until {until:%Y-%m-%d %H:%M:%S} UTC gave the state"
        f" of {written.customers:,} customers and {written.terminals:,} terminals"
        f" ({written.blobs:,} blobs) in {time.monotonic() - began:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    if settings.snapshot_dir is None:
        Console(stderr=True).print(
            "No snapshot is kept: if Redis loses this state, no log can give it back. Keep the"
            " history, or set RISKWIRE_SNAPSHOT_DIR and run this again.",
            highlight=False,
            soft_wrap=True,
        )


async def with_store(settings: Settings, use: Callable[[RedisStore], Awaitable[T]]) -> T:
    """What `use` gives with the store of the settings, which is closed then."""
    store = RedisStore(settings.redis_url, settings.redis_timeout_ms)
    try:
        return await use(store)
    finally:
        await store.close()
