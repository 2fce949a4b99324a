"""The values that pass between the stages: micro-batches in columns.

A column is a NumPy array with one entry a record; byte strings of a column lie in one buffer
(`Ragged`). No object is made for a record on the way, except for the few that are rejected or
alerted. Times are int64 microseconds since 1970-01-01 UTC unless the name says otherwise.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from app.errors import SEMANTIC, RejectCode

Float32s = NDArray[np.float32]
Int8s = NDArray[np.int8]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """n byte strings that lie in one buffer; a length of -1 stands for null.

    `data` is uint8 and read-only (compiled loops know one kind of buffer); `start` int64 (n,) and
    `length` int32 (n,) say where each string lies.
    """

    data: Bytes
    start: Int64s
    length: Int32s

    @classmethod
    def of(cls, items: Sequence[bytes | None]) -> "Ragged":
        """Put byte strings side by side."""
        length = np.array([-1 if item is None else len(item) for item in items], np.int32)
        size = np.maximum(length, 0).astype(np.int64)
        data = np.frombuffer(b"".join(item for item in items if item), np.uint8)
        return cls(data, np.cumsum(size) - size, length)

    def __len__(self) -> int:
        return len(self.length)

    def __getitem__(self, i: int) -> bytes | None:
        length = int(self.length[i])
        return None if length < 0 else self.data[self.start[i] : self.start[i] + length].tobytes()

    def text(self, i: int) -> str | None:
        """The i-th string as text; for columns that were validated as UTF-8."""
        value = self[i]
        return None if value is None else value.decode()

    @property
    def nbytes(self) -> int:
        """Bytes of all strings together."""
        return int(np.maximum(self.length, 0).sum())

    def take(self, rows: Int64s) -> "Ragged":
        """The strings at `rows`, sharing the buffer."""
        return Ragged(self.data, self.start[rows], self.length[rows])


class Header(NamedTuple):
    """One Kafka record header."""

    name: str
    value: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class RecordBatch:
    """Records of one topic as they came from Kafka, in the order of arrival.

    partition int32 (n,), offset int64 (n,), timestamp_ms int64 (n,), timestamp_type int8 (n,)
    (0 not available, 1 create time, 2 log append time). `headers` holds each record's headers
    packed by `pack_headers`; length 0 where there are none. `generation` counts the consumer's
    assignments and rewinds: a batch of an older generation may hold records of partitions that
    were given up.
    """

    topic: str
    partition: Int32s
    offset: Int64s
    timestamp_ms: Int64s
    timestamp_type: Int8s
    keys: Ragged
    values: Ragged
    headers: Ragged
    polled_us: int
    generation: int = 0

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and headers."""
        return self.keys.nbytes + self.values.nbytes + self.headers.nbytes

    def take(self, rows: Int64s) -> "RecordBatch":
        """The records at `rows`, sharing the buffers."""
        return RecordBatch(
            self.topic,
            self.partition[rows],
            self.offset[rows],
            self.timestamp_ms[rows],
            self.timestamp_type[rows],
            self.keys.take(rows),
            self.values.take(rows),
            self.headers.take(rows),
            self.polled_us,
            self.generation,
        )


STRING_FIELDS = (
    "transaction_id",
    "customer_id",
    "terminal_id",
    "currency",
    "merchant_category",
    "country",
    "device_id",
)


@dataclass(frozen=True, slots=True, eq=False)
class Transactions:
    """The accepted records of a batch, decoded and validated; n rows in the order of the records.

    row int64 (n,) is the index in the RecordBatch. `text` is the buffer that all string columns
    point into; text_start int64 and text_length int32 are (len(STRING_FIELDS), n), length -1 for
    null. channel int8 (n,) is the index of the reader schema's symbol.
    """

    row: Int64s
    partition: Int32s
    offset: Int64s
    append_time_us: Int64s
    append_time_type: Int8s
    event_time_us: Int64s
    amount_minor: Int64s
    channel: Int8s
    text: Bytes
    text_start: Int64s
    text_length: Int32s

    def __len__(self) -> int:
        return len(self.row)

    def take(self, rows: Int64s) -> "Transactions":
        """The transactions at `rows`, sharing the text."""
        return Transactions(
            self.row[rows],
            self.partition[rows],
            self.offset[rows],
            self.append_time_us[rows],
            self.append_time_type[rows],
            self.event_time_us[rows],
            self.amount_minor[rows],
            self.channel[rows],
            self.text,
            np.ascontiguousarray(self.text_start[:, rows]),
            np.ascontiguousarray(self.text_length[:, rows]),
        )

    def strings(self, name: str) -> Ragged:
        """The string column `name`, one of STRING_FIELDS."""
        k = STRING_FIELDS.index(name)
        return Ragged(self.text, self.text_start[k], self.text_length[k])


class Reject(NamedTuple):
    """A record that cannot be scored: its index in the RecordBatch, and why."""

    row: int
    code: RejectCode
    stage: str


_CODES = tuple(RejectCode)
_PLACES = {code: place for place, code in enumerate(_CODES)}
_STAGES = tuple("validate" if code in SEMANTIC else "decode" for code in _CODES)


@dataclass(frozen=True, slots=True, eq=False)
class Rejects(Sequence[Reject]):
    """n rejects of a batch in columns, in its order; an item is made when it is asked for.

    row int64 (n,), code int8 (n,) the place in RejectCode.
    """

    row: Int64s
    code: Int8s

    @classmethod
    def of(cls, rejects: Sequence[Reject]) -> "Rejects":
        """The columns of these."""
        if isinstance(rejects, Rejects):
            return rejects
        codes = [_PLACES[each.code] for each in rejects]
        return cls(np.array([each.row for each in rejects], np.int64), np.array(codes, np.int8))

    def __len__(self) -> int:
        return len(self.row)

    @overload
    def __getitem__(self, i: int) -> Reject: ...
    @overload
    def __getitem__(self, i: slice) -> "Rejects": ...
    def __getitem__(self, i: int | slice) -> "Reject | Rejects":
        if isinstance(i, slice):
            return self.take(i)
        code = self.code[i]
        return Reject(int(self.row[i]), _CODES[code], _STAGES[code])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash((self.row.tobytes(), self.code.tobytes()))

    def take(self, which: NDArray[np.bool_] | slice) -> "Rejects":
        """Some of them."""
        return Rejects(self.row[which], self.code[which])

    def merged(self, others: "Rejects", rows: Int64s) -> "Rejects":
        """These and others of a part of the batch, whose rows were `rows`, in the batch's order."""
        row = np.concatenate([self.row, rows[others.row]])
        order = np.argsort(row)
        return Rejects(row[order], np.concatenate([self.code, others.code])[order])

    def counts(self) -> Counter[RejectCode]:
        """How many there are of each code."""
        found = np.bincount(self.code, minlength=len(_CODES)).tolist()
        return Counter({code: n for code, n in zip(_CODES, found, strict=True) if n})


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Outbound records of one topic: keys and values in buffers, partition int32 (n,)."""

    topic: str
    partition: Int32s
    keys: Ragged
    values: Ragged

    def __len__(self) -> int:
        return len(self.partition)

    def take(self, rows: Int64s) -> "Columns":
        """The records at `rows`, sharing the buffers."""
        keys, values = self.keys.take(rows), self.values.take(rows)
        return Columns(self.topic, self.partition[rows], keys, values)


@dataclass(frozen=True, slots=True)
class Letter:
    """One outbound record that carries headers: a dead letter."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of key, value and headers."""
        headers = sum(len(h.name) + len(h.value or b"") for h in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers


@dataclass(frozen=True, slots=True, eq=False)
class Letters(Sequence[Letter]):
    """n dead letters of one topic in columns, partition int32 (n,); an item is made when asked for.

    `headers` are packed by `pack_headers`; length 0 where there are none.
    """

    topic: str
    partition: Int32s
    keys: Ragged
    values: Ragged
    headers: Ragged

    @classmethod
    def of(cls, letter: Letter) -> "Letters":
        """The columns of a single one."""
        return cls(
            letter.topic,
            np.array([letter.partition], np.int32),
            Ragged.of([letter.key]),
            Ragged.of([letter.value]),
            Ragged.of([pack_headers(letter.headers)]),
        )

    def __len__(self) -> int:
        return len(self.partition)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and headers."""
        return self.keys.nbytes + self.values.nbytes + self.headers.nbytes

    @overload
    def __getitem__(self, i: int) -> Letter: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Letter]: ...
    def __getitem__(self, i: int | slice) -> Letter | Sequence[Letter]:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        headers = tuple(unpack_headers(self.headers[i] or b""))
        return Letter(self.topic, int(self.partition[i]), self.keys[i], self.values[i], headers)


@dataclass(frozen=True, slots=True, eq=False)
class Outbound:
    """All that one micro-batch sends, and the input offsets that it completes.

    `next_offset` maps an input partition to the offset after the batch's last record of it.
    """

    columns: tuple[Columns, ...]
    letters: Sequence[Letter]
    source_topic: str
    next_offset: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.columns)) + len(self.letters)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and headers."""
        if isinstance(self.letters, Letters):
            letters = self.letters.nbytes
        else:
            letters = sum(each.nbytes for each in self.letters)
        return letters + sum(each.keys.nbytes + each.values.nbytes for each in self.columns)


def pack_headers(headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    """Pack headers for `RecordBatch.headers`.

    Per header: int32 name length, name, int32 value length (-1 null), value.
    """
    parts = []
    for name, value in headers:
        raw = name.encode("utf-8", "surrogateescape")
        parts += [len(raw).to_bytes(4, "little"), raw]
        size = -1 if value is None else len(value)
        parts += [size.to_bytes(4, "little", signed=True), value or b""]
    return b"".join(parts)


def unpack_headers(packed: bytes) -> list[Header]:
    """The inverse of `pack_headers`."""
    headers, at = [], 0
    while at < len(packed):
        end = at + 4 + int.from_bytes(packed[at : at + 4], "little")
        name = packed[at + 4 : end].decode("utf-8", "surrogateescape")
        size = int.from_bytes(packed[end : end + 4], "little", signed=True)
        at = end + 4 + max(size, 0)
        headers.append(Header(name, None if size < 0 else packed[end + 4 : at]))
    return headers
