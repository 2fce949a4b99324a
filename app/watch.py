"""`riskwire alerts` and `riskwire scores`: records as lines, as JSON, or as a table that stays put.

In: a topic to follow, or decoded RiskAlert and RiskScore fields. Out: text for a terminal or a
pipe; what a payment says is data, so neither control characters nor markup in it have an effect.
Errors are those of `app.adapters.follow`.
"""

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from app.adapters.follow import Decoder, Follower
from app.config import Settings

Fields = Mapping[str, Any]

STYLES = {"DECLINE": "bold red", "REVIEW": "yellow", "APPROVE": "green"}
# Digits after the point, by ISO 4217; all other currencies have two.
_NONE = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"
MINOR_DIGITS = {**dict.fromkeys(_NONE.split(), 0), **dict.fromkeys(_THREE.split(), 3)}
POLL_S = 0.2
# Lines of a terminal that the table's frame, header and caption take.
FRAME_LINES = 7


class View(Protocol):
    """Shows one record after the other."""

    def show(self, fields: Fields) -> None:
        """Show a record."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Lines:
    """One line a record, as soon as it comes."""

    def __init__(self, render: Callable[[Fields], str]) -> None:
        self._render = render

    def show(self, fields: Fields) -> None:
        """Print and flush: whoever reads the pipe waits for it."""
        print(self._render(fields), flush=True)  # noqa: T201 -- this is the product

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class LiveTable:
    """The newest records in a table that stays in place."""

    def __init__(self, title: str, console: Console) -> None:
        self._title = title
        self._rows: deque[tuple[str, ...]] = deque(maxlen=max(5, console.height - FRAME_LINES))
        self._seen = 0
        self._live = Live(self._table(), console=console, refresh_per_second=10)

    def show(self, fields: Fields) -> None:
        """Add a row; the oldest goes where the screen is full."""
        self._seen += 1
        self._rows.append(styled(fields))
        self._live.update(self._table())

    def _table(self) -> Table:
        return table_of(self._rows, self._title, f"{self._seen:,} seen")

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)


class Until(NamedTuple):
    """When to stop following: after so many records, or so long without one; None: never."""

    records_max: int | None
    quiet_s: float | None


def follow(
    settings: Settings,
    role: Literal["alerts", "scores"],
    until: Until,
    *,
    as_json: bool,
    from_beginning: bool,
) -> None:
    """Show a topic's records as they come; Ctrl-C ends it."""
    topic = settings.topic(role)
    decode = Decoder("risk_alert" if role == "alerts" else "risk_score", schema_by_id(settings))
    with (
        suppress(KeyboardInterrupt),
        Follower(settings, [topic], from_beginning=from_beginning) as follower,
        view(topic, as_json=as_json) as shown,
    ):
        count, heard_s = 0, time.monotonic()
        while until.quiet_s is None or time.monotonic() - heard_s < until.quiet_s:
            for record in follower.poll(POLL_S):
                heard_s = time.monotonic()
                fields = decode(record.value)
                if fields is None:
                    where = f"partition {record.partition}, offset {record.offset}"
                    print(f"{topic}: {where} cannot be decoded", file=sys.stderr)  # noqa: T201
                    continue
                shown.show(fields)
                count += 1
                if count == until.records_max:
                    return


def schema_by_id(settings: Settings) -> Callable[[int], str | None]:
    """Return how to look up a registry's schema; without a registry, nothing is known."""
    if not settings.schema_registry_url:
        return lambda _id: None
    from app.adapters.registry import SchemaRegistry  # noqa: PLC0415 -- needed by few, slow

    registry = SchemaRegistry(settings)
    return lambda schema_id: asyncio.run(registry.resolve([schema_id]))[schema_id]


def table_of(rows: Iterable[tuple[str, ...]], title: str, caption: str) -> Table:
    """Return a table of `styled` rows, one line each."""
    table = Table(title=title, caption=caption, expand=True)
    for name in ("time", "decision"):
        table.add_column(name, no_wrap=True)
    for name in ("score", "amount"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("customer", "terminal"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    table.add_column("why", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("latency", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def view(title: str, *, as_json: bool) -> View:
    """Return the view that suits standard output."""
    if as_json:
        return Lines(as_json_line)
    if sys.stdout.isatty():
        return LiveTable(title, Console())
    return Lines(as_line)


def as_json_line(fields: Fields) -> str:
    """One JSON object, fields as in the Avro schema; bytes in hexadecimal."""
    return json.dumps(fields, default=lambda raw: raw.hex())


def as_line(fields: Fields) -> str:
    """One line for a log or a pipe, columns divided by two spaces."""
    at = datetime.fromtimestamp(fields["latency"]["emitted"] / 1e6, UTC)
    stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return "  ".join(cell for cell in (stamp, *_cells(fields)) if cell)


def styled(fields: Fields) -> tuple[str, ...]:
    """Return the cells of a table's row, with rich's markup."""
    at = datetime.fromtimestamp(fields["latency"]["emitted"] / 1e6).astimezone()
    decision, *rest = _cells(fields)
    style = STYLES[decision]
    return (at.strftime("%H:%M:%S"), f"[{style}]{decision}[/]", *map(escape, rest))


def _cells(fields: Fields) -> tuple[str, ...]:
    """Decision, score, amount, customer, terminal, why (and what it lacks), latency."""
    latency, payment = fields["latency"], fields.get("transaction", {})
    spent_ms = (latency["emitted"] - latency["event_time"]) / 1000
    return (
        fields["decision"],
        f"{fields['score']:.3f}",
        _amount(payment) if payment else "",
        _printable(payment.get("customer_id") or fields.get("customer_id", "")),
        _printable(payment.get("terminal_id", "")),
        ", ".join([*(reason["code"] for reason in fields.get("reasons", ())), *_flags(fields)]),
        f"{spent_ms:,.1f} ms",
    )


def _flags(fields: Fields) -> list[str]:
    """What a score lacks."""
    shed = fields.get("shed", 0)
    return [*(["degraded"] if fields.get("degraded") else []), *([f"shed {shed}"] if shed else [])]


def _amount(payment: Fields) -> str:
    digits = MINOR_DIGITS.get(payment["currency"], 2)
    return f"{payment['amount_minor'] / 10**digits:,.{digits}f} {payment['currency']}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
