"""`riskwire simulate`: simulated payments as a Parquet file, and the counts that identify them.

In: a world, and a directory or none. Out: DIRECTORY/transactions.parquet, and a table or one JSON
object on standard output. Raises ConfigError where the directory cannot be used, before anything
is simulated.
"""

import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from models.handbook import Counts, World, prepare, simulate, write_parquet

SCENARIOS = ("large amounts", "compromised terminals", "compromised customers", "card testing")


def run(out: Path | None, world: World, *, as_json: bool) -> None:
    """Simulate, write unless `out` is None, and print the counts."""
    if out is not None:
        prepare(out)
    began = time.monotonic()
    payments, counts = simulate(world)
    path = None if out is None else write_parquet(payments, out)
    seconds = time.monotonic() - began
    if as_json:
        print(json.dumps(_report(counts, seconds, path)))  # noqa: T201 -- this is the product
    else:
        _show(world, counts, seconds, path)


def _report(counts: Counts, seconds: float, path: Path | None) -> dict[str, object]:
    return {
        "transactions": counts.transactions,
        "frauds": counts.frauds,
        "new_frauds": list(counts.new_frauds),
        "final_scenarios": list(counts.final_scenarios),
        "seconds": round(seconds, 2),
        "path": None if path is None else str(path),
    }


def _show(world: World, counts: Counts, seconds: float, path: Path | None) -> None:
    console = Console()
    table = Table(title=f"Simulated payments, seed {world.seed}")
    table.add_column("frauds by")
    table.add_column("new", justify="right")
    table.add_column("final label", justify="right")
    rows = zip(SCENARIOS, counts.new_frauds, counts.final_scenarios, strict=False)
    for name, new, final in rows:
        table.add_row(name, f"{new:,}", f"{final:,}")
    table.add_section()
    table.add_row("together", f"{counts.frauds:,}", f"{sum(counts.final_scenarios):,}")
    console.print(table)
    share = counts.frauds / max(counts.transactions, 1)
    console.print(f"{counts.transactions:,} transactions, {share:.4%} frauds, in {seconds:.1f} s")
    if path is not None:
        console.print(f"written to {path}", soft_wrap=True, markup=False, highlight=False)
