"""Lane: Riskwire's machinery at the peers' own work, and nothing of its own beside it.

Transport, decoder, hash tables, delivery and commits are the worker's. Each customer's and
terminal's vector is kept in memory and read from Redis when it is first met, one MGET a batch
(`--variant fetch`: all that a batch needs are read each time). No windows, labels, reasons, alerts,
watermarks or latency record. A record that does not decode ends it.
"""
# ruff: noqa: ARG002 -- the port's arguments, of which there is little to do with

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import SecretStr

from app import decode, logs
from app.adapters.onnx import CPU, open_session
from app.adapters.redis import RedisStore
from app.bench.lanes.lane import Meter, Task, task
from app.bench.lanes.riskwire import metered, settings_of
from app.config import Settings
from app.delivery import Output
from app.encode import encode_long, put_bytes, put_long
from app.entities import Table
from app.ledger import Position, next_offsets
from app.metrics import Metrics
from app.ports import Commits
from app.records import Columns, Float32s, Outbound, Ragged, RecordBatch, Transactions
from app.wiring import delivery_of, intake_of, limits_of, now_us
from features.compiled import compiled

SIDES = (("customer_id", b"c:"), ("terminal_id", b"t:"))
WIDTH = 32
ROWS = 1 << 16
OUT_BYTES = 128
"""Of an encoded score, at most: an id of 64 bytes, three numbers of 10 and a float."""


class Stateless:
    """Owns no state, since vectors never change; implements `StateOwner`."""

    def start(self, commits: Commits) -> None:
        """Nothing to begin."""

    def fence(self, partitions: Sequence[int]) -> bool:
        """Nobody had it before."""
        return True

    def claim(
        self, partitions: Sequence[int], committed: Mapping[Position, int]
    ) -> Mapping[Position, int]:
        """Read on from what is committed."""
        return committed

    def lacks(self, gone: Mapping[Position, int]) -> None:
        """Nothing is missed."""

    def release(self, partitions: Sequence[int], *, lost: bool) -> None:
        """Nothing to give up."""


class Vectors:
    """The vectors of customers and terminals by row."""

    def __init__(self, redis_url: str, *, keep: bool) -> None:
        """`keep` those that were read once."""
        self._store, self._keep = RedisStore(SecretStr(redis_url), 10_000), keep
        self._tables = [Table(ROWS) for _ in SIDES]
        self._vectors = [np.zeros((ROWS, WIDTH), np.float32) for _ in SIDES]

    async def of(self, transactions: Transactions) -> Float32s:
        """The matrix of a batch, float32 (n, 2 * WIDTH)."""
        customers, terminals = self._vectors
        n, rows, keys, wanted = len(transactions), [], list[bytes](), []
        for (name, prefix), table in zip(SIDES, self._tables, strict=True):
            found, new = table.rows(transactions.strings(name), np.zeros(n, np.int32))
            rows.append(found)
            wanted.append(new if self._keep else np.unique(found))
            keys += [prefix + token for token in table.tokens(wanted[-1])]
        if keys:
            blobs = [blob or bytes(4 * WIDTH) for blob in await self._store.fetch(keys)]
            read = np.frombuffer(b"".join(blobs), np.float32).reshape(-1, WIDTH)
            customers[wanted[0]] = read[: len(wanted[0])]
            terminals[wanted[1]] = read[len(wanted[0]) :]
        return np.concatenate([customers[rows[0]], terminals[rows[1]]], axis=1)


@compiled
def _encode(
    text: Any, text_start: Any, text_length: Any, score: Any, event_time: Any, emitted: Any,
    out: Any, start: Any, length: Any,
) -> None:  # fmt: skip
    p = np.int64(0)
    for i in range(len(start)):
        first, size = p, np.int64(text_length[i])
        p = put_bytes(out, put_long(out, p, size), text, text_start[i], size)
        p = put_bytes(out, p, score, 4 * i, 4)
        p = put_long(out, p, event_time[i])
        p = put_bytes(out, p, emitted, 0, len(emitted))
        start[i], length[i] = first, p - first


def encoded(topic: str, transactions: Transactions, scores: Float32s, emitted_us: int) -> Columns:
    """The scores of a batch as outbound records."""
    n, ids = len(transactions), transactions.strings("transaction_id")
    out = np.empty(n * OUT_BYTES, np.uint8)
    start, length = np.empty(n, np.int64), np.empty(n, np.int32)
    emitted = np.frombuffer(encode_long(emitted_us), np.uint8)
    _encode(
        ids.data, ids.start, ids.length, scores.view(np.uint8), transactions.event_time_us,
        emitted, out, start, length,
    )  # fmt: skip
    out.flags.writeable = False
    keys = transactions.strings("customer_id")
    return Columns(topic, transactions.partition, keys, Ragged(out, start, length))


class PackedWorker:
    """The way of a batch, as `app.worker.Worker`'s."""

    def __init__(self, settings: Settings, wanted: Task) -> None:
        """Wire what a worker has, less its state."""
        self._topic = settings.topic("scores")
        self._limits, self._writers = limits_of(settings), decode.Writers()
        self._session, _ = open_session(Path(wanted.model).read_bytes(), CPU)
        self._vectors = Vectors(wanted.redis, keep=wanted.variant != "fetch")
        topics = [settings.topic("transactions")]
        self.intake = intake_of(settings, wanted.transport, topics, Metrics(), Stateless())
        self.delivery = delivery_of(settings, wanted.transport, self.intake, lambda _id: None)

    async def handle(self, batch: RecordBatch) -> None:
        """Score one batch and queue its scores."""
        self.intake.taken()
        admitted = self.intake.ledger.admit(batch)
        if admitted is None:
            return
        ticket, records = admitted
        decoded = decode.decode(records, self._writers, self._limits)
        transactions = decoded.transactions
        if len(transactions) != len(records):
            raise ValueError(f"these records are no transactions: {decoded.rejects[:3]}")
        matrix = await self._vectors.of(transactions)
        (scores,) = self._session.run(["score"], {"x": matrix})

        def encode() -> Outbound:
            columns = encoded(self._topic, transactions, scores.ravel(), now_us())
            return Outbound((columns,), (), records.topic, next_offsets(records))

        await self.delivery.send(Output(len(records), encode, nbytes=records.nbytes), ticket)

    async def drain(self) -> None:
        """Let what is in hand finish and commit."""
        await self.intake.stop()
        await self.delivery.close()


async def main(wanted: Task) -> None:
    """Run the worker until the count is reached."""
    settings, meter = settings_of(wanted), Meter(wanted.n, wanted.warm)
    logs.configure(settings)
    await metered(PackedWorker(settings, wanted), wanted, meter)


if __name__ == "__main__":
    asyncio.run(main(task()))
