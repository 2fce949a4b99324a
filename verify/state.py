"""C6, C7 and C8: a partition replayed in log order against Redis and against the scores' hashes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from features.contract import Timing
from verify.inputs import Inputs, Told
from verify.model import CPU, Model
from verify.recompute import (
    EMPTY,
    NEVER,
    Customer,
    Log,
    Place,
    Share,
    customer_blob,
    share_blob,
    vector,
)
from verify.report import Report
from verify.xxh64 import hash_rows

ROWS_AT_ONCE = 4096
Marks = Mapping[tuple[int, str], list[tuple[int, int, int]]]
"""Watermarks by partition and log: from which offset on, until when, and the record's offset."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What Redis says of a partition; the pairs are of transactions and of labels."""

    found: bool = False
    next_offset: tuple[int, int] = (0, 0)
    newest_us: tuple[int, int] = (NEVER, NEVER)
    quiet_us: tuple[int, int] = (NEVER, NEVER)
    next_mark: int = 0
    partitions: int = 0

    @classmethod
    def parse(cls, value: bytes | None) -> "Meta":
        """What cannot be read counts as missing: the state is built anew then."""
        try:
            fields = json.loads(value or b"")
            first, second, third = (
                (int(fields[name][0]), int(fields[name][1]))
                for name in ("next_offset", "newest_us", "quiet_us")
            )
            mark, count = int(fields["next_mark"]), int(fields["partitions"])
            return cls(True, first, second, third, mark, count)  # noqa: FBT003 -- as it says
        except (ValueError, TypeError, KeyError, IndexError):
            return cls()


@dataclass(slots=True)
class Score:
    """What a score says, as far as it is compared with the recomputation."""

    score: float
    vector_hash: bytes
    exempt: bool
    provider: str
    at: int
    """Offset of the score's record."""


@dataclass(slots=True)
class Replay:
    """One partition's transactions, once more."""

    partition: int
    topics: Mapping[str, str]
    namespace: str
    timing: Timing
    model: Model
    report: Report
    customers: dict[str, Customer] = field(default_factory=dict)
    shares: dict[str, Share] = field(default_factory=dict)
    _rows: list[list[float]] = field(default_factory=list)
    _scores: list[Score] = field(default_factory=list)

    def run(
        self, payments: Inputs, places: Mapping[str, Place], log: Log, meta: Meta, told: Told,
        blobs: Mapping[bytes, bytes], scores: Mapping[int, Score],
    ) -> None:  # fmt: skip
        """Replay all; at the offset up to which Redis is, compare it."""
        until = meta.next_offset[0]
        due = True
        for i, offset in enumerate(payments.offset):
            if due and offset >= until:
                self._compare(log, meta, told, blobs)
                due = False
            customer = self.customers.setdefault(payments.customer[i], Customer())
            share = self.shares.setdefault(payments.terminal[i], Share())
            t, amount = payments.event_us[i], payments.amount[i]
            score = scores.get(offset)
            if score is not None and not score.exempt:
                place = places[payments.terminal[i]]
                self._rows.append(
                    vector(t, amount, customer, share, place, self.partition, self.timing)
                )
                self._scores.append(score)
                if len(self._rows) == ROWS_AT_ONCE:
                    self._judge()
            customer.remember(t, amount)
            share.remember(t, log.seen_us(offset, t))
        if due:
            self._compare(log, meta, told, blobs)
        self._judge()

    def _judge(self) -> None:
        """C7 and C8 of the vectors that wait."""
        if not self._rows:
            return
        matrix = np.array(self._rows, np.float64).astype(np.float32)
        hashes = hash_rows(matrix).astype(">u8").tobytes()
        theirs = self.model.scores(matrix)
        topic = self.topics["scores"]
        for i, score in enumerate(self._scores):
            mine = hashes[8 * i : 8 * i + 8]
            self.report.checked["C7"] += 1
            if mine != score.vector_hash:
                text = f"vector hash {score.vector_hash.hex()}, recomputed {mine.hex()}"
                self.report.add("C7", topic, self.partition, score.at, f"{text} of {matrix[i]}")
            elif score.provider == CPU:
                self.report.checked["C8"] += 1
                if np.float32(score.score) != theirs[i]:
                    text = f"score {score.score!r}, the model gives {float(theirs[i])!r}"
                    self.report.add("C8", topic, self.partition, score.at, text)
        self._rows.clear()
        self._scores.clear()

    def _compare(self, log: Log, meta: Meta, told: Told, blobs: Mapping[bytes, bytes]) -> None:
        """C6: every key of the partition, and no other."""
        expected: dict[bytes, bytes] = {}
        if meta.found:
            start = b"rw:{p%d}:%b:" % (self.partition, self.namespace.encode())
            for name, row in self.customers.items():
                expected[start + b"c:" + name.encode()] = customer_blob(row.image())
            for name in self.shares.keys() | told.rows.keys():
                events = self.shares[name].image() if name in self.shares else EMPTY
                blob = share_blob(events, told.rows.get(name, EMPTY))
                expected[start + b"t:" + name.encode()] = blob
            newest = (log.newest_us, told.newest_us)
            self.report.checked["C6"] += 1
            if meta.newest_us != newest:
                self._wrong(f"newest_us {meta.newest_us} in the meta, recomputed {newest}")
        for key in sorted(expected.keys() | blobs.keys()):
            self.report.checked["C6"] += 1
            found, wanted = blobs.get(key), expected.get(key)
            if found != wanted:
                self._wrong(f"{key!r} at {meta.next_offset}: {_difference(found, wanted)}")

    def _wrong(self, text: str) -> None:
        self.report.add("C6", "redis", self.partition, -1, text)


def _difference(found: bytes | None, wanted: bytes | None) -> str:
    if found is None:
        return "missing"
    if wanted is None:
        return "no record before the state's offset made it"
    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), -1)
    return f"{len(found)} bytes, recomputed {len(wanted)}; they differ from byte {at} on"


def check_meta(
    partition: int, meta: Meta, ends: tuple[int, int], committed: tuple[int, int], count: int,
    marks: Marks, report: Report, *, drained: bool,
) -> None:  # fmt: skip
    """C6: Redis may be behind what is committed, never ahead; quiet times are the topic's.

    Where the workers had time to write it, the state of what is committed is there.
    """

    def wrong(text: str) -> None:
        report.add("C6", "redis", partition, -1, text)

    if not meta.found:
        report.counts["partitions without state"] += 1
        if drained and max(committed) > 0:
            report.checked["C6"] += 1
            wrong("Redis has no state of the partition, whose records are committed")
        return
    report.checked["C6"] += 1
    if meta.partitions != count:
        wrong(f"the meta says {meta.partitions} partitions, there are {count}")
    for k, log in enumerate(("TRANSACTIONS", "LABELS")):
        w, c = meta.next_offset[k], max(committed[k], 0)
        if w > c:
            wrong(f"{log.lower()}: state up to {w}, but committed is {c}: Redis is ahead of Kafka")
        report.counts["records behind in Redis"] += max(min(c, ends[k]) - w, 0)
        due = [(until, at) for position, until, at in marks[partition, log] if position <= w]
        most = max((until for until, _ in due), default=NEVER)
        least = max((until for until, at in due if at < meta.next_mark), default=NEVER)
        if not least <= meta.quiet_us[k] <= most:
            wrong(f"{log.lower()}: quiet until {meta.quiet_us[k]}, watermarks say {least}..{most}")


def exempt(fields: Mapping[str, Any]) -> str:
    """Why a score's vector may differ from the recomputation; empty where it may not."""
    return next((name for name in ("provisional", "degraded", "shed") if fields.get(name)), "")
