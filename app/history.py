"""Past transactions from a file: CSV with a header line, or Parquet where pyarrow is installed.

Columns are named as in the Transaction schema: customer_id, terminal_id, event_time (microseconds
since 1970-01-01 UTC, or ISO 8601 with its offset) and amount_minor must be there. Of the outcome:
fraud (1, 0, or empty where it is not known), and known_at, when it became known; without it, as
late as is still in time for the label delay. transaction_id lets a later label correct an outcome.
Others are passed over. Rows may come in any order. Raises ConfigError that names the file and the
line, of Parquet the row.
"""

import csv
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import ConfigError
from app.labels import TAG_MASK
from app.records import Bytes, Int32s, Int64s, Ragged
from features.compiled import compiled
from features.contract import DAY_US, LABEL_DELAY_DAYS, Timing
from features.offline import Log
from features.xxh64 import hash_bytes

NEEDED = ("customer_id", "terminal_id", "event_time", "amount_minor")
OPTIONAL = ("transaction_id", "fraud", "known_at")
PARQUET = ".parquet"
FRAUD = {"": -1, "0": 0, "1": 1, "false": 0, "true": 1}
TOKEN_BYTES_MAX = 64
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME_US_MAX = (datetime(9999, 12, 31, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
AMOUNT_MINOR_MAX = 10**12
UNKNOWN = -1


@dataclass(frozen=True, slots=True, eq=False)
class PastLog:
    """Past transactions in event-time order, and whose they are.

    `log.customer` and `log.terminal` are places in the lists of tokens; its partition is 0.
    `tags` int64 (n,) tell transactions apart as `app.labels.Labels.tag` does.
    """

    log: Log
    customer_tokens: list[bytes]
    terminal_tokens: list[bytes]
    tags: Int64s

    def __len__(self) -> int:
        return len(self.log)


def tags_of(ids: Ragged) -> Int64s:
    """The tags of transaction ids, int64 (n,); those of null are their places."""
    out = np.arange(len(ids))
    _hash(ids.data, ids.start, ids.length, TAG_MASK, out)
    return out


@compiled
def _hash(data: Bytes, start: Int64s, length: Int32s, mask: int, out: Int64s) -> None:
    for i in range(len(out)):
        if length[i] >= 0:
            out[i] = np.int64(hash_bytes(data, start[i], length[i]) & np.uint64(mask))


def read_history(path: Path, timing: Timing) -> PastLog:
    """Read a file into columns, in event-time order."""
    columns = _read_parquet(path) if path.suffix == PARQUET else _read_csv(path)
    n = len(columns.event_time_us)
    if not n:
        raise ConfigError(f"{path}: there is no transaction in it")
    order = np.argsort(columns.event_time_us, kind="stable")
    event_time_us, known_us = columns.event_time_us[order], columns.known_at_us[order]
    in_time_us = event_time_us + LABEL_DELAY_DAYS * DAY_US - timing.skew_us
    log = Log(
        columns.customer[1][order],
        columns.terminal[1][order],
        event_time_us,
        columns.amount_minor[order],
        np.zeros(n, np.int32),
        columns.fraud[order].astype(np.int8),
        np.where(known_us == UNKNOWN, in_time_us, known_us),
    )
    return PastLog(log, columns.customer[0], columns.terminal[0], columns.tags[order])


Numbered = tuple[list[bytes], Int32s]
"""Tokens, each once, and the place of each row's among them."""


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """n rows in the file's order; UNKNOWN stands for no outcome, and for no time of it."""

    customer: Numbered
    terminal: Numbered
    event_time_us: Int64s
    amount_minor: Int64s
    fraud: Int64s
    known_at_us: Int64s
    tags: Int64s


def _check_names(path: Path, names: Iterable[str]) -> None:
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise ConfigError(f"{path}: column {', '.join(missing)} is missing")


# CSV: a row at a time.


def _read_csv(path: Path) -> _Columns:
    customers: dict[bytes, int] = {}
    terminals: dict[bytes, int] = {}
    rows: list[tuple[int, ...]] = []
    ids: list[bytes | None] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            names = next(lines, [])
            if names:
                _check_names(path, names)
            at = [names.index(name) if name in names else -1 for name in (*NEEDED, *OPTIONAL)]
            for fields in lines:
                if fields:
                    customer, terminal, time, amount, id_, fraud, known = (
                        _field(fields, place, path, lines.line_num) for place in at
                    )
                    try:
                        rows.append((
                            customers.setdefault(_token(customer), len(customers)),
                            terminals.setdefault(_token(terminal), len(terminals)),
                            _time_us(time),
                            _amount(amount),
                            FRAUD[fraud.strip().lower()],
                            _time_us(known) if known else UNKNOWN,
                        ))  # fmt: skip
                    except (KeyError, ValueError) as error:
                        raise ConfigError(f"{path}, line {lines.line_num}: {error}") from None
                    ids.append(id_.encode() or None)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV: {error}") from None
    table = np.array(rows, np.int64).reshape(-1, 6)
    return _Columns(
        (list(customers), table[:, 0].astype(np.int32)),
        (list(terminals), table[:, 1].astype(np.int32)),
        table[:, 2],
        table[:, 3],
        table[:, 4],
        table[:, 5],
        tags_of(Ragged.of(ids)),
    )


def _field(fields: Sequence[str], place: int, path: Path, line: int) -> str:
    if place >= len(fields):
        raise ConfigError(f"{path}, line {line}: it has {len(fields)} fields only")
    return fields[place] if place >= 0 else ""


def _token(value: str) -> bytes:
    token = value.encode()
    if not 0 < len(token) <= TOKEN_BYTES_MAX:
        raise ValueError(f"an identifier has 1 to {TOKEN_BYTES_MAX} bytes, not {len(token)}")
    return token


def _amount(value: str) -> int:
    amount = int(value)
    if not 0 <= amount <= AMOUNT_MINOR_MAX:
        raise ValueError(f"amount_minor is 0 to 10^12, not {amount}")
    return amount


def _time_us(value: str) -> int:
    """Microseconds of an integer or of ISO 8601 text."""
    text = value.strip()
    if text.lstrip("-").isdigit():
        time_us = int(text)
    else:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError("a time has no UTC offset")
        time_us = (at - EPOCH) // timedelta(microseconds=1)
    if not 0 <= time_us <= TIME_US_MAX:
        raise ValueError(f"a time is from 1970 on, in microseconds, not {time_us}")
    return time_us


# Parquet: a column at a time.


def _read_parquet(path: Path) -> _Columns:
    try:
        pa = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
        compute = importlib.import_module("pyarrow.compute")
    except ImportError:
        raise ConfigError(f"{path}: pip install pyarrow to read Parquet, or give CSV") from None
    try:
        names = parquet.read_schema(path).names
        _check_names(path, names)
        wanted = [name for name in (*NEEDED, *OPTIONAL) if name in names]
        found = parquet.read_table(path, columns=wanted)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as Parquet: {error}") from None
    take = _Take(path, pa, compute, found)
    has_ids = "transaction_id" in names
    return _Columns(
        take.tokens("customer_id"),
        take.tokens("terminal_id"),
        take.longs("event_time", _time_us, 0, TIME_US_MAX, needed=True),
        take.longs("amount_minor", _amount, 0, AMOUNT_MINOR_MAX, needed=True),
        take.longs("fraud", lambda text: FRAUD[text.strip().lower()], 0, 1),
        take.longs("known_at", _time_us, 0, TIME_US_MAX),
        tags_of(take.strings("transaction_id")) if has_ids else np.arange(len(found)),
    )


@dataclass(frozen=True, slots=True)
class _Take:
    """Columns of an Arrow table as ours, checked."""

    path: Path
    pa: Any
    compute: Any
    table: Any

    def longs(
        self, name: str, parse: Callable[[str], int], low: int, high: int, *, needed: bool = False
    ) -> Int64s:
        """Numbers, times, truth values, or text that `parse` reads; UNKNOWN where there is none."""
        if name not in self.table.column_names:
            return np.full(len(self.table), UNKNOWN)
        column, types = self.table[name].combine_chunks(), self.pa.types
        kind = column.type
        if needed:
            self._refuse(np.asarray(column.is_null()), f"{name} is empty")
        if types.is_timestamp(kind) and kind.tz is None:
            self._refuse(np.ones(len(column), np.bool_), "a time has no UTC offset")
        if types.is_string(kind) or types.is_large_string(kind):
            out = self._parsed(column, parse)
        else:
            try:
                if types.is_timestamp(kind):
                    column = column.cast(self.pa.timestamp("us", kind.tz), safe=False)
                out = np.array(column.cast(self.pa.int64()).fill_null(UNKNOWN))
            except (self.pa.ArrowInvalid, NotImplementedError) as error:
                raise ConfigError(f"{self.path}: {name}: {error}") from None
        wrong = (out < low) | (out > high)
        self._refuse(wrong if needed else wrong & (out != UNKNOWN), f"{name} is {low} to {high}")
        return out

    def _parsed(self, column: Any, parse: Callable[[str], int]) -> Int64s:
        out = np.full(len(column), UNKNOWN)
        for row, text in enumerate(column.to_pylist()):
            if text:
                try:
                    out[row] = parse(text)
                except (KeyError, ValueError) as error:
                    raise ConfigError(f"{self.path}, row {row + 1}: {error}") from None
        return out

    def tokens(self, name: str) -> Numbered:
        """Identifiers, numbered."""
        column = self._text(name)
        self._refuse(np.asarray(column.is_null()), f"{name} is empty")
        size = np.asarray(self.compute.binary_length(column))
        says = f"an identifier has 1 to {TOKEN_BYTES_MAX} bytes"
        self._refuse((size < 1) | (size > TOKEN_BYTES_MAX), says)
        coded = column.dictionary_encode()
        tokens = [token.encode() for token in coded.dictionary.to_pylist()]
        return tokens, np.array(coded.indices, np.int32)

    def strings(self, name: str) -> Ragged:
        """Text as it lies in Arrow's own buffer."""
        column = self._text(name)
        _, offsets, data = column.buffers()
        at = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
        empty = np.asarray(column.is_null()) | (np.diff(at) == 0)
        length = np.where(empty, -1, np.diff(at)).astype(np.int32)
        text = np.frombuffer(data or b"", np.uint8)
        return Ragged(text, at[:-1].copy(), length)

    def _text(self, name: str) -> Any:
        try:
            return self.table[name].cast(self.pa.large_string()).combine_chunks()
        except (self.pa.ArrowInvalid, NotImplementedError) as error:
            raise ConfigError(f"{self.path}: {name}: {error}") from None

    def _refuse(self, wrong: Any, says: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0]) + 1
            raise ConfigError(f"{self.path}, row {row}: {says}")
