"""`riskwire bench luxuries`: what each luxury costs, by the same run with and without it.

The lanes of `bench throughput` with everything on and with everything but one, interleaved. A cost
is the median over the rounds of what a run without it saves, as a share of the CPU with it.
"""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from app.bench import throughput

ON = "riskwire_once"
WITHOUT = {
    "riskwire": "exactly once",
    "once_no_latency": "latency histograms",
    "once_no_metrics": "metrics, latency histograms among them",
    "once_no_reasons": "reasons",
}
"""By lane, what it does without."""
GOALS = {"once_no_latency": 0.03}


def run(
    *, records: int, rounds: int, bootstrap: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure; the report of `throughput.run`, and `costs` by lane as a share of CPU."""
    report = throughput.run(
        records=records, rounds=rounds, lanes=(ON, *WITHOUT), bootstrap=bootstrap, say=say
    )
    return report | {"costs": {lane: cost(report, lane) for lane in WITHOUT}}


def cost(report: Mapping[str, Any], lane: str) -> float:
    """The share of CPU that a luxury takes: the median over the rounds."""
    pairs = zip(report[ON]["runs"], report[lane]["runs"], strict=True)
    saved = (1 - without["cpu_us_per_tx"] / on["cpu_us_per_tx"] for on, without in pairs)
    return round(float(statistics.median(saved)), 4)


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the costs."""
    table = Table("luxury", title="What is saved without it")
    for heading in ("CPU µs/tx with", "without", "cost", "goal"):
        table.add_column(heading, justify="right")
    for lane, what in WITHOUT.items():
        on, without = (report[name]["cpu_us_per_tx"] for name in (ON, lane))
        goal = f"{GOALS[lane]:.0%}" if lane in GOALS else ""
        table.add_row(what, f"{on:.2f}", f"{without:.2f}", f"{report['costs'][lane]:+.1%}", goal)
    console.print(table)
    rate = report[ON]["tx_per_s"] / report["riskwire"]["tx_per_s"]
    console.print(f"exactly once over at least once, throughput: {rate:.2f} (goal 0.85)")
