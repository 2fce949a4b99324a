"""Watermarks of quiet logs: what the internal topic of that name says, as it lies in Kafka.

A log that was read to its end and has been quiet since is declared complete up to a time, by a
record in the same partition of the topic `watermarks`. The record names the offset from which it
holds, so whoever reads the logs again lets it count at the same place. Pure.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import fastavro
import numpy as np

import schemas
from app.records import Columns, Int32s, Int64s, Outbound, Ragged
from features.state import LABELS, NEVER, TRANSACTIONS

SCHEMA = schemas.load("watermark")
_PLAIN = schemas.without_logical_types(SCHEMA.text)
_HEADER = SCHEMA.single_object_header
_LOGS = {TRANSACTIONS: "TRANSACTIONS", LABELS: "LABELS"}
_NUMBERS = {name: log for log, name in _LOGS.items()}


class Watermark(NamedTuple):
    """Records of `log` from offset `position` on are not visible before `until_us`."""

    log: int
    position: int
    until_us: int

    def key(self, group: str) -> bytes:
        """What it is kept by: of one position only the latest counts."""
        return f"{group}/{_LOGS[self.log]}/{self.position}".encode()

    def encode(self, group: str) -> bytes:
        """As it lies in Kafka, of a consumer group."""
        out, log = io.BytesIO(), _LOGS[self.log]
        fields = {"group": group, "log": log, "position": self.position, "until": self.until_us}
        fastavro.schemaless_writer(out, _PLAIN, fields)
        return _HEADER + out.getvalue()


class WatermarkLog(Protocol):
    """The topic, as far as the owner of partitions needs it."""

    async def read(
        self, starts: Mapping[int, int]
    ) -> Mapping[int, tuple[Sequence[Watermark], int]]:
        """By partition, the watermarks from an offset on, and the offset after them.

        Raises BrokerUnavailable.
        """

    def close(self) -> None:
        """Let go of the connections."""


class Announcer(Protocol):
    """The topic, as far as it is written."""

    def begin(self, marks: Sequence[tuple[int, Watermark]]) -> int:
        """A ticket that is done once what is sent with it is acknowledged."""

    async def send(self, marks: Sequence[tuple[int, Watermark]], ticket: int) -> None:
        """Send watermarks of partitions; nothing if the ticket was dropped by a rewind."""


class Awaited:
    """Watermarks that were read, and hold from an offset on that is still to come."""

    def __init__(self) -> None:
        """Begin with none."""
        self._until_us: dict[tuple[int, int], dict[int, int]] = {}  # by log and partition: position

    def __bool__(self) -> bool:
        return bool(self._until_us)

    def add(self, partition: int, mark: Watermark) -> None:
        """Await one."""
        its = self._until_us.setdefault((mark.log, partition), {})
        its[mark.position] = max(mark.until_us, its.get(mark.position, NEVER))

    def due(self, log: int, partition: int, offset: int) -> int:
        """Await no more those that hold for this offset; their latest time, NEVER for none."""
        its = self._until_us.get((log, partition), {})
        times = [its.pop(position) for position in [*its] if position <= offset]
        if not its:
            self._until_us.pop((log, partition), None)
        return max(times, default=NEVER)

    def limits(self, log: int, partition: Int32s) -> Int64s:
        """For each of n records by their partition, the first offset from which the next holds."""
        limits = np.full(int(partition.max(initial=0)) + 1, np.iinfo(np.int64).max)
        for (its_log, p), its in self._until_us.items():
            if its_log == log:
                limits[p : p + 1] = min(its)  # nothing where no record is of that partition
        return limits[partition]

    def of(self, partition: int) -> bool:
        """Whether any of a partition is awaited."""
        return any(p == partition for _, p in self._until_us)

    def forget(self, partition: int) -> None:
        """Await none of a partition."""
        for log in _LOGS:
            self._until_us.pop((log, partition), None)


def parse(value: bytes | None, group: str) -> Watermark | None:
    """The inverse of `Watermark.encode`; None for what is none, or another group's."""
    if value is None or not value.startswith(_HEADER):
        return None
    try:
        fields: Any = fastavro.schemaless_reader(io.BytesIO(value[len(_HEADER) :]), _PLAIN, None)
    except (EOFError, ValueError, IndexError, KeyError):
        return None
    if fields["group"] != group:
        return None
    return Watermark(_NUMBERS[fields["log"]], fields["position"], fields["until"])


def declarations(topic: str, group: str, marks: Sequence[tuple[int, Watermark]]) -> Outbound:
    """The records that say watermarks of partitions."""
    keys = Ragged.of([mark.key(group) for _, mark in marks])
    values = Ragged.of([mark.encode(group) for _, mark in marks])
    partitions = np.array([partition for partition, _ in marks], np.int32)
    return Outbound((Columns(topic, partitions, keys, values),), (), topic)
