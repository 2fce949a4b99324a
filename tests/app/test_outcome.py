"""The demo's count of what came out, told from the output topics alone."""

import io
import json
from typing import Any

import fastavro
import numpy as np
from rich.console import Console

import schemas
from app.adapters.follow import Seen
from app.config import load_settings
from app.demo.display import show_summary
from app.demo.outcome import Outcome
from tests.app.test_follow import LATENCY, SCORE

T0 = 1_700_000_000_000_000


def score(offset: int, start_us: int = T0, *, provisional: bool = False) -> Seen:
    """Return a score's record; its stages took 10, 20, 30, 40 and 50 ms."""
    names = ("event_time", "polled", "decoded", "enriched", "scored", "emitted")
    instants = start_us + np.cumsum([0, 10_000, 20_000, 30_000, 40_000, 50_000])
    latency = {**LATENCY, **dict(zip(names, instants.tolist(), strict=True))}
    fields = {"source_offset": offset, "provisional": provisional, "latency": latency}
    return Seen("scores", 0, offset, 0, b"c", framed("risk_score", {**SCORE, **fields}), {})


def alert(number: int) -> Seen:
    """Return the record of an alert on the payment of that number."""
    transaction = {
        "transaction_id": f"p{T0}-{number}",
        "customer_id": "c",
        "terminal_id": "t",
        "event_time": T0,
        "amount_minor": 1,
        "currency": "EUR",
    }
    fields: dict[str, Any] = {
        **SCORE,
        "alert_id": f"a{number}",
        "transaction": transaction,
        "threshold": 0.5,
        "reasons": [],
        "features": [],
        "source_topic": "transactions",
    }
    return Seen("alerts", 0, number, 0, b"c", framed("risk_alert", fields), {})


def framed(name: str, fields: dict[str, Any]) -> bytes:
    """Encode fields by a bundled schema."""
    schema, out = schemas.load(name), io.BytesIO()
    fastavro.schemaless_writer(out, schema.parsed, fields)
    return schema.single_object_header + out.getvalue()


def letter(offset: int, code: bytes) -> Seen:
    """Return a dead letter's record."""
    headers: dict[str, bytes | None] = {
        "riskwire.error.code": code,
        "riskwire.error.source.partition": b"0",
        "riskwire.error.source.offset": b"%d" % offset,
    }
    return Seen("dead-letters", 0, offset, 0, None, b"", headers)


def test_a_repeated_record_counts_once() -> None:
    """At least once may repeat outputs: the summary is of transactions, not of records."""
    outcome = Outcome(load_settings())
    outcome.add([score(1), score(2), score(1), letter(3, b"BAD_KEY"), letter(3, b"BAD_KEY")])
    outcome.add([score(2)])
    assert (outcome.scored, outcome.dead) == (2, 1)
    assert outcome.codes == {"BAD_KEY": 1}
    assert outcome.latency["wait"].count == 2


def test_alerts_are_held_against_the_frauds() -> None:
    """Which payments are frauds is known here only; an alert that comes twice counts once."""
    outcome = Outcome(load_settings(), frauds=[3, 5, 8])
    assert len(outcome.add([alert(3), alert(4), alert(3), alert(8)])) == 3
    summary = outcome.summary(10)
    assert (summary["alerts"], summary["frauds_alerted"], summary["frauds"]) == (3, 2, 3)


def test_provisional_scores_are_counted_and_explained() -> None:
    """Their number is in the summary, and shown with its reason where there are any."""
    outcome = Outcome(load_settings())
    outcome.add([score(1), score(2, provisional=True), score(2, provisional=True)])
    summary = {**outcome.summary(2), "kafka": "a", "redis": "b"}
    assert summary["provisional"] == 1
    assert "an input log was quiet" in shown(summary)
    assert "provisional" not in shown({**summary, "provisional": 0})


def shown(summary: dict[str, Any]) -> str:
    """Return what is printed of a summary."""
    out = io.StringIO()
    show_summary(Console(file=out, width=200), summary)
    return out.getvalue()


def test_latencies_are_those_of_the_records() -> None:
    """Stages come from the scores' own latency records, and add up to the whole."""
    outcome = Outcome(load_settings())
    outcome.add([score(i, T0 + 1000 * i) for i in range(100)])
    summary = outcome.summary(101)
    spent = {name: round(found["p50"]) for name, found in summary["latency_ms"].items()}
    assert spent == {
        "event_to_emit": 150,
        "wait": 10,
        "decode": 20,
        "features": 30,
        "model": 40,
        "emit": 50,
    }
    assert summary["in"] == 101
    assert summary["scored"] == 100
    assert summary["tx_per_s"] == round(100 / 0.249, 1)


def test_nothing_came_out() -> None:
    """Even then there is a summary, of valid JSON, and it can be shown."""
    summary = Outcome(load_settings()).summary(5)
    assert summary["scored"] == summary["dead_letters"] == 0
    assert summary["latency_ms"]["wait"] == {"p50": None, "p99": None}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert "0 of the 0 frauds" in shown({**summary, "kafka": "a", "redis": "b"})
