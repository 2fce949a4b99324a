"""Past transactions from a file: columns as the kernel takes them, faults with their line."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xxhash import xxh64_intdigest

from app.errors import ConfigError
from app.history import PastLog, read_history, tags_of
from app.records import Ragged
from features.contract import DAY_US, LIVE

HEAD = "customer_id,terminal_id,event_time,amount_minor,fraud,known_at,transaction_id,country\n"
IN_TIME_US = 7 * DAY_US - LIVE.skew_us


def written(tmp_path: Path, text: str) -> Path:
    """Return the path of a CSV file."""
    path = tmp_path / "history.csv"
    path.write_text(text, "utf-8")
    return path


def read(path: Path) -> PastLog:
    """The file's history, by the timing of a live stream."""
    return read_history(path, LIVE)


def tag(transaction_id: str) -> int:
    """What a label of that transaction carries."""
    return xxh64_intdigest(transaction_id.encode()) & 0xFFFF_FFFF


def test_reads_columns_in_event_time_order(tmp_path: Path) -> None:
    """Rows are sorted by time, times are integers or ISO 8601, unknown outcomes are -1."""
    past = read(
        written(
            tmp_path,
            HEAD
            + "c1,t1,1700000000000002,500,1,,a,DE\n"
            + "c2,t1,2023-11-14T22:13:20.000001+00:00,700,,,b,\n"
            + "c1,t2,1700000000000003,900,0,2023-11-15T00:00:00Z,,FR\n",
        )
    )
    log = past.log
    assert log.event_time_us.tolist() == [1_700_000_000_000_001 + i for i in range(3)]
    assert [past.customer_tokens[i] for i in log.customer] == [b"c2", b"c1", b"c1"]
    assert [past.terminal_tokens[i] for i in log.terminal] == [b"t1", b"t1", b"t2"]
    assert log.amount_minor.tolist() == [700, 500, 900]
    assert log.fraud.tolist() == [-1, 1, 0]
    assert log.known_at_us[1] == 1_700_000_000_000_002 + IN_TIME_US
    assert log.known_at_us[2] == 1_700_006_400_000_000
    assert past.tags.tolist() == [tag("b"), tag("a"), 2]


def test_equal_times_keep_their_order_and_four_columns_are_enough(tmp_path: Path) -> None:
    """The sort is stable, so the file's order is the log's."""
    rows = "".join(f"{i},c,t,{9 - i // 4}\n" for i in range(8))
    past = read(written(tmp_path, "amount_minor,customer_id,terminal_id,event_time\n" + rows))
    assert past.log.amount_minor.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert past.log.fraud.tolist() == [-1] * 8
    assert past.tags.tolist() == past.log.amount_minor.tolist()


def test_a_tag_is_the_low_half_of_the_hash() -> None:
    """The same that the labels topic's decoder computes."""
    ids = [b"", b"1", None, b"tx-0001" * 9]
    wanted = [xxh64_intdigest(i) & 0xFFFF_FFFF if i is not None else 2 for i in ids]
    assert tags_of(Ragged.of(ids)).tolist() == wanted


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("c,t,soon,5,,,,", "line 2"),
        ("c,t,2023-11-14T22:13:20,5,,,,", "no UTC offset"),
        ("c,t,-9,5,,,,", "from 1970 on"),
        ("c,t,9,-5,,,,", "amount_minor"),
        (",t,9,5,,,,", "1 to 64 bytes"),
        (f"c,{'é' * 33},9,5,,,,", "1 to 64 bytes, not 66"),
        ("c,t,9,5,maybe,,,", "line 2"),
        ("c,t,9,5,1,later,,", "line 2"),
        ("c,t,9", "line 2"),
    ],
)
def test_a_faulty_row_is_named(tmp_path: Path, row: str, says: str) -> None:
    """A row that cannot be used is a ConfigError with file and line."""
    with pytest.raises(ConfigError, match=says) as caught:
        read(written(tmp_path, HEAD + row + "\n"))
    assert "history.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "no transaction"), (HEAD, "no transaction"), ("a,b\n1,2\n", "customer_id, terminal_id")],
)
def test_a_file_without_history_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """An empty file and a file of something else are refused."""
    with pytest.raises(ConfigError, match=says):
        read(written(tmp_path, text))


@pytest.mark.parametrize("name", ["nothing.csv", "nothing.parquet"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    """A path that leads nowhere is a ConfigError."""
    pytest.importorskip("pyarrow")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / name)


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyarrow the message says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        read(tmp_path / "history.parquet")


def parquet(path: Path, **columns: Any) -> Path:
    """Write these columns, in several row groups."""
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.table(columns), path, row_group_size=2)
    return path


START = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def table() -> dict[str, Any]:
    """Five transactions, their times falling."""
    return {
        "customer_id": ["c1", "c2", "c1", "c1", "c3"],
        "terminal_id": [1, 2, 1, 1, 1],
        "event_time": [START - timedelta(days=i) for i in range(5)],
        "amount_minor": [1, 2, 3, 4, 5],
        "fraud": [True, False, None, True, False],
        "transaction_id": ["a", None, "c", "d", "e"],
        "known_at": [None, None, None, START, None],
    }


def test_parquet_and_csv_say_the_same(tmp_path: Path) -> None:
    """Types as Parquet has them: times, numbers, truth values, nulls."""
    columns = table()
    one = read(parquet(tmp_path / "a.parquet", **columns))
    rows = zip(*columns.values(), strict=True)
    lines = [",".join("" if field is None else str(field) for field in row) for row in rows]
    other = read(written(tmp_path, "\n".join([",".join(columns), *lines])))
    assert (one.customer_tokens, one.terminal_tokens) == (other.customer_tokens, [b"1", b"2"])
    for name in one.log.__slots__:
        np.testing.assert_array_equal(getattr(one.log, name), getattr(other.log, name))
        assert getattr(one.log, name).dtype == getattr(other.log, name).dtype
    np.testing.assert_array_equal(one.tags, other.tags)


def test_parquet_may_hold_text_and_plain_numbers(tmp_path: Path) -> None:
    """Times as text or as microseconds, and no outcome at all."""
    needed = {name: table()[name] for name in ("customer_id", "terminal_id", "amount_minor")}
    times = table()["event_time"]
    text = parquet(tmp_path / "a.parquet", **needed, event_time=[str(t) for t in times])
    number = [int(t.timestamp()) * 1_000_000 for t in times]
    plain = parquet(tmp_path / "b.parquet", **needed, event_time=number)
    assert read(text).log.event_time_us.tolist() == number[::-1]
    assert read(plain).log.event_time_us.tolist() == number[::-1]
    assert read(plain).log.fraud.tolist() == [-1] * 5


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("customer_id", ["c", None, "c", "c", "c"], "row 2: customer_id is empty"),
        ("customer_id", ["c", "", "c", "c", "c"], "row 2: an identifier has 1 to 64"),
        ("event_time", [1, 2, 3, -4, 5], "row 4"),
        ("event_time", [START.replace(tzinfo=None)] * 5, "no UTC offset"),
        ("event_time", ["1", "2", "soon", "4", "5"], "row 3"),
        ("amount_minor", [1, 2, 3, 4, 10**12 + 1], "row 5: amount_minor"),
        ("amount_minor", [1.5] * 5, "amount_minor"),
        ("fraud", [0, 1, 2, 0, 0], "row 3: fraud"),
    ],
)
def test_a_faulty_row_of_parquet_is_named(
    tmp_path: Path, name: str, values: list[Any], says: str
) -> None:
    """By its number, counted from 1."""
    path = parquet(tmp_path / "a.parquet", **{**table(), name: values})
    with pytest.raises(ConfigError, match=says):
        read(path)


def test_parquet_of_something_else_is_refused(tmp_path: Path) -> None:
    """Missing columns and other files."""
    with pytest.raises(ConfigError, match="column terminal_id, event_time is missing"):
        read(parquet(tmp_path / "a.parquet", customer_id=["c"], amount_minor=[1]))
    (tmp_path / "b.parquet").write_text("hello")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        read(tmp_path / "b.parquet")
