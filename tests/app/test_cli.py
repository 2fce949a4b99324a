"""The command line: it parses, calls, and turns every known error into a message and a status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import cli
from app.errors import (
    BrokerUnavailable,
    ConfigError,
    RiskwireError,
    ScoringError,
    StoreUnavailable,
)

COMMANDS = [
    ("worker",),
    ("warm-up",),
    ("demo",),
    ("produce",),
    ("alerts",),
    ("scores",),
    ("topics", "apply"),
    ("doctor",),
    ("config",),
    ("features", "backfill"),
    ("features", "get"),
    ("bench", "throughput"),
    ("bench", "stages"),
    ("bench", "scaling"),
    ("features", "list"),
    ("simulate",),
    ("train",),
    ("tune",),
    ("finetune",),
    ("evaluate",),
    ("threshold",),
    ("version",),
]
# Importing any of these takes longer than showing help may.
HEAVY = {
    "numpy",
    "numba",
    "pydantic",
    "faust",
    "confluent_kafka",
    "onnxruntime",
    "redis",
    "fastavro",
    "lightgbm",
    "xgboost",
    "optuna",
}
NOWHERE = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where no .env of a developer is."""
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    """Each command explains itself."""
    result = CliRunner().invoke(cli.app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_help_imports_nothing_heavy() -> None:
    """Parsing needs none of the libraries that commands need, so that help comes at once."""
    code = "import sys, app.cli; print(*(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60
    )
    assert not HEAVY & set(done.stdout.split())


def test_version() -> None:
    """The version is the distribution's."""
    assert CliRunner().invoke(cli.app, ["version"]).output.startswith("riskwire 0.")


def test_a_wrong_setting_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong variable: its name on standard error, no traceback, status 2."""
    monkeypatch.setenv("RISKWIRE_PARTITIONS", "many")
    done = run("config")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("riskwire: these settings are wrong")
    assert "RISKWIRE_PARTITIONS" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_argument_has_status_2() -> None:
    """An argument that cannot be parsed is the operator's fault too."""
    assert run("produce", "--count", "many").returncode == 2
    done = run("features", "backfill")
    assert done.returncode == 2
    assert "--history FILE or --simulate" in done.stderr


def test_simulate_prints_the_counts() -> None:
    """A small world from a day that was asked for, as one JSON object."""
    done = run(
        "simulate", "--customers", "20", "--terminals", "30", "--days", "9",
        "--start", "2019-02-01", "--extra", "drift", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["transactions"] > 0
    wrong = run("simulate", "--start", "tomorrow")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


def test_a_broker_that_is_away_has_status_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers: one message and status 3, so that a script can try again."""
    monkeypatch.setenv("RISKWIRE_REDIS_URL", f"redis://{NOWHERE}/0")
    done = run("features", "get", "customer", "c1")
    assert done.returncode == 3
    assert done.stderr.startswith("riskwire: Redis at 127.0.0.1:1 does not answer")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("a"), 2),
        (StoreUnavailable("b"), 3),
        (BrokerUnavailable("c"), 3),
        (ScoringError("d"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_main_gives_each_error_its_status(
    error: RiskwireError | KeyboardInterrupt,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Known errors become a line on standard error; Ctrl-C says nothing."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == status
    expected = "" if isinstance(error, KeyboardInterrupt) else f"riskwire: {error}\n"
    assert capsys.readouterr().err == expected


def test_config_as_env_and_markdown() -> None:
    """Both forms are printed alone, to be sent into a file."""
    plain, markdown, env = (
        CliRunner().invoke(cli.app, ["config", *form]).output
        for form in ((), ("--markdown",), ("--env",))
    )
    assert markdown.startswith("| Variable | Default | Meaning |")
    assert "#RISKWIRE_GROUP_ID=riskwire" in env
    assert "RISKWIRE_GROUP_ID=riskwire" in plain


def test_warm_up_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image is built where neither Kafka nor Redis is."""
    monkeypatch.setenv("RISKWIRE_BOOTSTRAP_SERVERS", NOWHERE)
    monkeypatch.setenv("RISKWIRE_REDIS_URL", f"redis://{NOWHERE}/0")
    assert run("warm-up").returncode == 0


def test_the_demo_refuses_what_does_not_fit() -> None:
    """More than the embedded Kafka keeps is refused with the bound, before anything is started."""
    done = run("demo", "--transactions", "1000000")
    assert done.returncode == 2
    assert "at most 50,000" in done.stderr


def test_doctor_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything away: one JSON object, each failure with its advice, status 1."""
    monkeypatch.setenv("RISKWIRE_BOOTSTRAP_SERVERS", NOWHERE)
    monkeypatch.setenv("RISKWIRE_REDIS_URL", f"redis://{NOWHERE}/0")
    done = run("doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert found["ok"] is False
    failed = {check["name"]: check for check in found["checks"] if check["state"] == "fail"}
    assert failed.keys() == {"Kafka", "Redis"}
    assert all(check["advice"] for check in failed.values())
