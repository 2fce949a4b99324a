"""Past transactions from a file: CSV with a header line, or Parquet where pyarrow is installed.

Columns are named as in the Transaction schema: customer_id, terminal_id, event_time (microseconds
since 1970-01-01 UTC, or ISO 8601 with its offset) and amount_minor must be there; channel, country
and fraud (1, 0, or empty where the outcome is not known) may be. Others are passed over. Rows may
come in any order. Raises ConfigError that names the file and the line.
"""

import csv
import importlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from app.errors import ConfigError
from features.aggregate import History, number
from features.contract import CHANNELS
from features.vectorize import country_code

NEEDED = ("customer_id", "terminal_id", "event_time", "amount_minor")
OPTIONAL = ("channel", "country", "fraud")
PARQUET = ".parquet"
FRAUD = {"": -1, "0": 0, "1": 1, "false": 0, "true": 1}
TOKEN_BYTES_MAX = 64
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AMOUNT_MINOR_MAX = 10**12


class _Row(NamedTuple):
    customer: bytes
    terminal: bytes
    event_time_us: int
    amount_minor: int
    channel: int
    country: int
    fraud: int


def read_history(path: Path) -> History:
    """Read a file into columns, in event-time order."""
    rows = [_parsed(path, line, fields) for line, fields in enumerate(_fields(path), 2)]
    if not rows:
        raise ConfigError(f"{path}: there is no transaction in it")
    rows.sort(key=lambda row: row.event_time_us)
    customer_tokens, customer = number([row.customer for row in rows])
    terminal_tokens, terminal = number([row.terminal for row in rows])
    return History(
        customer_tokens,
        terminal_tokens,
        customer,
        terminal,
        np.array([row.event_time_us for row in rows], np.int64),
        np.array([row.amount_minor for row in rows], np.int64),
        np.array([row.channel for row in rows], np.int8),
        np.array([row.country for row in rows], np.int32),
        np.array([row.fraud for row in rows], np.int8),
    )


def _fields(path: Path) -> Iterator[Mapping[str, Any]]:
    """Each row by column name, after a look at the columns."""
    rows = _parquet_rows(path) if path.suffix == PARQUET else _csv_rows(path)
    for i, row in enumerate(rows):
        if i == 0:
            missing = [name for name in NEEDED if name not in row]
            if missing:
                raise ConfigError(f"{path}: column {', '.join(missing)} is missing")
        yield row


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from csv.DictReader(lines)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV: {error}") from None


def _parquet_rows(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError(f"{path}: pip install pyarrow to read Parquet, or give CSV") from None
    try:
        file = parquet.ParquetFile(path)
        columns = [name for name in (*NEEDED, *OPTIONAL) if name in file.schema_arrow.names]
        batches = file.iter_batches(columns=columns)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as Parquet: {error}") from None
    return (row for batch in batches for row in batch.to_pylist())


def _parsed(path: Path, line: int, fields: Mapping[str, Any]) -> _Row:
    try:
        return _Row(
            _token(fields["customer_id"]),
            _token(fields["terminal_id"]),
            _time_us(fields["event_time"]),
            _amount(fields["amount_minor"]),
            CHANNELS.index(fields.get("channel") or "UNKNOWN"),
            country_code(fields["country"]) if fields.get("country") else 0,
            FRAUD[_text(fields.get("fraud")).lower()],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}, line {line}: {error}") from None


def _token(value: Any) -> bytes:
    token = str(value).encode()
    if not 0 < len(token) <= TOKEN_BYTES_MAX:
        raise ValueError(f"an identifier has 1 to {TOKEN_BYTES_MAX} bytes, not {len(token)}")
    return token


def _amount(value: Any) -> int:
    amount = int(value)
    if not 0 <= amount <= AMOUNT_MINOR_MAX:
        raise ValueError(f"amount_minor is 0 to 10^12, not {amount}")
    return amount


def _time_us(value: Any) -> int:
    """Microseconds of an integer, of ISO 8601 text, or of a datetime that Parquet gave."""
    text = str(value).strip()
    if text.lstrip("-").isdigit():
        return int(text)
    at = value if isinstance(value, datetime) else datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("event_time has no UTC offset")
    return (at - EPOCH) // timedelta(microseconds=1)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return "" if value is None else str(value)
