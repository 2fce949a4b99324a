"""`riskwire simulate`: what it prints and writes, and what it refuses."""

import json
from pathlib import Path

import pytest

from app import simulate_cli
from app.errors import ConfigError
from models.handbook import World, read_parquet, simulate

WORLD = World(seed=2, customers=30, terminals=300, days=20)


def test_json_is_one_object_with_the_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three scenarios each; the file holds as many payments."""
    simulate_cli.run(tmp_path / "out", WORLD, as_json=True)
    said = json.loads(capsys.readouterr().out)
    _, counts = simulate(WORLD)
    assert said.pop("seconds") >= 0
    assert said == {
        "transactions": counts.transactions,
        "frauds": counts.frauds,
        "new_frauds": list(counts.new_frauds),
        "final_scenarios": list(counts.final_scenarios),
        "path": str(tmp_path / "out" / "transactions.parquet"),
    }
    assert len(said["new_frauds"]) == len(said["final_scenarios"]) == 3
    assert len(read_parquet(Path(said["path"]))) == counts.transactions


def test_a_person_sees_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts by scenario, the share, and where the file is; without a directory no file."""
    simulate_cli.run(tmp_path, WORLD, as_json=False)
    said = capsys.readouterr().out
    _, counts = simulate(WORLD)
    assert f"{counts.transactions:,} transactions, " in said
    assert "compromised terminals" in said
    assert "card testing" not in said
    assert str(tmp_path / "transactions.parquet") in said
    simulate_cli.run(None, World(2, 30, 300, 20, extra=("card-testing",)), as_json=False)
    said = capsys.readouterr().out
    assert "card testing" in said
    assert "written" not in said


def test_a_world_where_nobody_pays_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    """No division by nothing."""
    simulate_cli.run(None, World(0, 3, 2, 1, radius=1e-9), as_json=False)
    assert "0 transactions, 0.0000% frauds" in capsys.readouterr().out


def test_a_file_is_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything is simulated."""
    monkeypatch.delattr(simulate_cli, "simulate")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="as a directory"):
        simulate_cli.run(tmp_path / "file", WORLD, as_json=False)
