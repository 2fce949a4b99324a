"""What the demo shows: what it is doing, the alerts as they come, and the summary at the end.

On a terminal the newest alerts stay in one table with the counts below it; elsewhere each is a
line. In: plain values and decoded alerts. Out: text on the given console.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from app.errors import REJECT_MESSAGES, RejectCode
from app.watch import as_line, styled, table_of

ROWS_MAX = 12
LINES_MAX = 40


class Display:
    """Shows the demo's progress; `with` it for as long as alerts come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: deque[tuple[str, ...]] = deque(maxlen=ROWS_MAX)
        self._alerts = 0
        self._counts = ""
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=8)

    def say(self, text: str) -> None:
        """Say what happens now."""
        self._console.print(text, highlight=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
        elif self._alerts > LINES_MAX:
            self.say(f"... and {self._alerts - LINES_MAX:,} more alerts")

    def alert(self, fields: Mapping[str, Any]) -> None:
        """Show an alert."""
        self._alerts += 1
        self._rows.append(styled(fields))
        if not self._console.is_terminal and self._alerts <= LINES_MAX:
            self._console.print(as_line(fields), highlight=False, markup=False, soft_wrap=True)

    def counts(self, sent: int, scored: int, dead: int) -> None:
        """Show how far things are."""
        self._counts = (
            f"{sent:,} sent, {scored:,} scored, {self._alerts:,} alerts, {dead:,} dead letters"
        )

    def _table(self) -> Table:
        return table_of(self._rows, "alerts", self._counts)


def show_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """Print what the run came to; `summary` is the JSON object of `riskwire demo --json`."""
    letters = summary["dead_letters_by_code"]
    counts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value, note in _counts(summary):
        counts.add_row(name, Text(value, justify="right"), Text(note, style="dim"))
    console.print()
    console.print(counts)
    if letters:
        broken = Table("broken records", "", "why they could not be scored", box=None)
        for code, count in sorted(letters.items()):
            broken.add_row(code, str(count), REJECT_MESSAGES[RejectCode(code)])
        console.print()
        console.print(broken)
    times = Table("milliseconds a transaction", box=None)
    for name in ("p50", "p99"):
        times.add_column(name, justify="right")
    for stage, spent in summary["latency_ms"].items():
        cells = ("-" if ms is None else f"{ms:,.2f}" for ms in spent.values())
        times.add_row(LABELS[stage], *cells)
    console.print()
    console.print(times)
    console.print()
    console.print(f"Kafka: {summary['kafka']}. Redis: {summary['redis']}.", highlight=False)
    console.print(
        "The mock cluster enforces no transactions: this run was at least once.", highlight=False
    )


def _counts(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, figure and what to know of it."""
    found = f"{summary['frauds_alerted']:,} of the {summary['frauds']:,} frauds among the payments"
    yield "in", f"{summary['in']:,}", ""
    yield "scored", f"{summary['scored']:,}", ""
    if summary["provisional"]:
        yield "  provisional", f"{summary['provisional']:,}", "an input log was quiet or behind"
    yield "alerts", f"{summary['alerts']:,}", found
    yield "dead letters", f"{summary['dead_letters']:,}", ""
    yield "transactions a second", f"{summary['tx_per_s']:,.0f}", ""


LABELS = {
    "event_to_emit": "event time to emitted",
    "wait": "  wait (event time to polled)",
    "decode": "  decode",
    "features": "  features",
    "model": "  model",
    "emit": "  emit",
}
