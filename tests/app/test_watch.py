"""What is shown of alerts and scores."""

import json
from typing import Any

import pytest

from app import watch
from tests.app.test_follow import SCORE

ALERT: dict[str, Any] = {
    **SCORE,
    "alert_id": "a",
    "decision": "DECLINE",
    "reasons": [{"code": "AMOUNT_HIGH"}, {"code": "TERMINAL_RISK"}],
    "transaction": {
        "customer_id": "c1",
        "terminal_id": "t1",
        "amount_minor": 123_456,
        "currency": "EUR",
    },
    "latency": {"event_time": 1_700_000_000_000_000, "emitted": 1_700_000_000_007_250},
}


def paid(**fields: object) -> dict[str, Any]:
    """Return ALERT with other fields of its transaction."""
    return {**ALERT, "transaction": {**ALERT["transaction"], **fields}}


def test_an_alert_is_one_line() -> None:
    """When, what, how sure, how much, who, where, why and how late, in that order."""
    assert watch.as_line(ALERT) == (
        "2023-11-14T22:13:20.007Z  DECLINE  0.500  1,234.56 EUR  c1  t1"
        "  AMOUNT_HIGH, TERMINAL_RISK  7.2 ms"
    )


def test_a_score_is_one_line() -> None:
    """A score has neither amount nor reasons, and its line no gaps for them."""
    line = watch.as_line({**SCORE, "latency": ALERT["latency"]})
    assert line == "2023-11-14T22:13:20.007Z  REVIEW  0.500  c  7.2 ms"


@pytest.mark.parametrize(
    ("currency", "shown"), [("EUR", "1,234.56 EUR"), ("JPY", "123,456 JPY"), ("KWD", "123.456 KWD")]
)
def test_amounts_have_their_currencys_digits(currency: str, shown: str) -> None:
    """Minor units are those of the currency."""
    assert f"  {shown}  " in watch.as_line(paid(currency=currency))


def test_what_a_payment_says_has_no_effect() -> None:
    """Neither escape sequences nor markup of a token reach the terminal."""
    hostile = paid(customer_id="\x1b[31mred", terminal_id="[bold]x")
    assert "\x1b" not in watch.as_line(hostile)
    assert "\x1b" not in "".join(watch.styled(hostile))
    assert "\\[bold]x" in watch.styled(hostile)


def test_json_keeps_the_fields_of_the_schema() -> None:
    """One object a line, bytes in hexadecimal."""
    line = watch.as_json_line(SCORE)
    assert "\n" not in line
    assert json.loads(line) == {**SCORE, "vector_hash": "00" * 8}


def test_the_view_suits_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table on a terminal, lines in a pipe, JSON where it was asked for."""
    assert isinstance(watch.view("alerts", as_json=False), watch.Lines)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert isinstance(watch.view("alerts", as_json=False), watch.LiveTable)
    assert isinstance(watch.view("alerts", as_json=True), watch.Lines)
