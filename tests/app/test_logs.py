"""Logs: one handler for everyone's events, and no payload in them."""

import json
import logging
import logging.config
import sys
from collections.abc import Iterator

import pytest
import structlog

from app import logs
from app.config import load_settings


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in logs.CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def lines(text: str) -> list[dict[str, object]]:
    """Return the logged JSON objects."""
    return [json.loads(line) for line in text.splitlines()]


def test_json_when_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object a line, with level, logger and UTC time, for structlog and for the stdlib."""
    logs.configure(load_settings())
    structlog.get_logger("app.worker").info("assigned", partitions=[1, 2])
    logging.getLogger("mode.worker").warning("slow %s", "timer", extra={"late_s": 3})
    ours, theirs = lines(capsys.readouterr().err)
    assert ours["event"] == "assigned"
    assert ours["partitions"] == [1, 2]
    assert ours["level"] == "info"
    assert ours["logger"] == "app.worker"
    assert str(ours["timestamp"]).endswith("Z")
    assert theirs["event"] == "slow timer"
    assert theirs["late_s"] == 3
    assert theirs["logger"] == "mode.worker"


def test_columns_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person sees a line, not JSON."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logs.configure(load_settings())
    structlog.get_logger("app.worker").info("assigned", partition=3)
    written = capsys.readouterr().err
    assert "assigned" in written
    assert not written.startswith("{")


def test_what_a_client_repeats_is_seldom_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broker that is away for minutes fills no disk, and nothing else is left out."""
    logs.configure(load_settings())
    log, now_s = structlog.get_logger("app.kafka"), 1000.0
    monkeypatch.setattr("app.logs.time.monotonic", lambda: now_s)
    for _ in range(50):
        log.warning("broker trouble", code="away")
        log.warning("broker trouble", code="slow")
        log.warning("consumer error", code="away")
    now_s += logs.REPEAT_S
    log.warning("broker trouble", code="away")
    seen = lines(capsys.readouterr().err)
    trouble = [(line["code"], line.get("left_out")) for line in seen if "trouble" in str(line)]
    assert trouble == [("away", None), ("slow", None), ("away", 49)]
    assert len(seen) == 53


def test_bytes_never_leave_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A payload that is logged by accident shows its length only."""
    logs.configure(load_settings())
    structlog.get_logger("app.decode").warning("rejected", value=b"secret-payload", key=None)
    written = capsys.readouterr().err
    assert "secret" not in written
    assert lines(written)[0]["value"] == "<14 bytes>"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_show_no_locals(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    """An exception is logged with its traceback, never with the values of variables."""
    logs.configure(load_settings(log_format=log_format))
    payload = "4929" + "000011112222"
    try:
        int("x")
    except ValueError:
        structlog.get_logger("app.worker").exception("failed")
    written = capsys.readouterr().err
    assert "ValueError" in written
    assert payload not in written


def test_level_and_chatty_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    """INFO of Faust and friends is left out unless DEBUG is asked for; ours obeys the setting."""
    logs.configure(load_settings())
    logging.getLogger("faust.app").info("starting")
    structlog.get_logger("app").debug("detail")
    assert capsys.readouterr().err == ""
    logs.configure(load_settings(log_level="DEBUG"))
    logging.getLogger("faust.app").info("starting")
    assert lines(capsys.readouterr().err)[0]["event"] == "starting"


def test_dict_config_serves_faust(capsys: pytest.CaptureFixture[str]) -> None:
    """Faust's logging_config is this dictionary: applied alone, the stdlib logs as JSON."""
    logging.config.dictConfig(logs.dict_config(load_settings()))
    logging.getLogger("faust.worker").error("gone")
    assert lines(capsys.readouterr().err)[0]["event"] == "gone"
