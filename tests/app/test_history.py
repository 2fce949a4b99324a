"""Past transactions from a file: columns as aggregate wants them, faults with their line."""

from pathlib import Path

import pytest

from app.errors import ConfigError
from app.history import read_history
from features.contract import CHANNELS
from features.vectorize import country_code

HEAD = "customer_id,terminal_id,event_time,amount_minor,channel,country,fraud,note\n"


def written(tmp_path: Path, text: str) -> Path:
    """Return the path of a CSV file."""
    path = tmp_path / "history.csv"
    path.write_text(text, "utf-8")
    return path


def test_reads_columns_in_event_time_order(tmp_path: Path) -> None:
    """Rows are sorted by time, times are integers or ISO 8601, unknown outcomes are -1."""
    history = read_history(
        written(
            tmp_path,
            HEAD
            + "c1,t1,1700000000000002,500,CHIP,DE,1,x\n"
            + "c2,t1,2023-11-14T22:13:20.000001+00:00,700,,,,\n"
            + "c1,t2,1700000000000003,900,ATM,FR,0,\n",
        )
    )
    assert history.event_time_us.tolist() == [1_700_000_000_000_001 + i for i in range(3)]
    assert [history.customer_tokens[i] for i in history.customer] == [b"c2", b"c1", b"c1"]
    assert [history.terminal_tokens[i] for i in history.terminal] == [b"t1", b"t1", b"t2"]
    assert history.amount_minor.tolist() == [700, 500, 900]
    assert [CHANNELS[i] for i in history.channel] == ["UNKNOWN", "CHIP", "ATM"]
    assert history.country.tolist() == [0, country_code("DE"), country_code("FR")]
    assert history.fraud.tolist() == [-1, 1, 0]


def test_optional_columns_may_be_missing(tmp_path: Path) -> None:
    """Four columns are enough."""
    history = read_history(
        written(tmp_path, "amount_minor,customer_id,terminal_id,event_time\n5,c,t,9\n")
    )
    assert len(history) == 1
    assert history.fraud.tolist() == [-1]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("c,t,soon,5,,,,", "line 2"),
        ("c,t,2023-11-14T22:13:20,5,,,,", "no UTC offset"),
        ("c,t,9,-5,,,,", "amount_minor"),
        (",t,9,5,,,,", "1 to 64 bytes"),
        ("c,t,9,5,PIGEON,,,", "line 2"),
        ("c,t,9,5,,GERMANY,,", "line 2"),
        ("c,t,9,5,,,maybe,", "line 2"),
        ("c,t,9", "line 2"),
    ],
)
def test_a_faulty_row_is_named(tmp_path: Path, row: str, says: str) -> None:
    """A row that cannot be used is a ConfigError with file and line."""
    with pytest.raises(ConfigError, match=says) as caught:
        read_history(written(tmp_path, HEAD + row + "\n"))
    assert "history.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "no transaction"), (HEAD, "no transaction"), ("a,b\n1,2\n", "customer_id, terminal_id")],
)
def test_a_file_without_history_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """An empty file and a file of something else are refused."""
    with pytest.raises(ConfigError, match=says):
        read_history(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A path that leads nowhere is a ConfigError."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_history(tmp_path / "nothing.csv")


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyarrow the message says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        read_history(tmp_path / "history.parquet")
