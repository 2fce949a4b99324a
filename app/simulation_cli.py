"""`riskwire simulate-faults`: the worker's own code over a simulated Kafka, Redis and clock.

Runs seeds and prints what does not hold, then one line with the count and the time; the exit status
is 1 where anything did not hold. `--trace` shows a seed's steps: the same ones every time.
"""
# ruff: noqa: PLC0415 -- imports that take time wait until the command runs

import time
from typing import Annotated

import typer

from app.errors import ConfigError


def simulate_faults(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 1000,
    first: Annotated[int, typer.Option("--from", min=0, help="The first of them.")] = 0,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes.")] = 1,
    *,
    trace: Annotated[bool, typer.Option(help="Show every step of the first seed.")] = False,
) -> None:
    """Try crashes, rebalances, lost answers and lost state on a simulated Kafka and Redis."""
    try:
        from app.simulation.run import simulate, simulate_many
    except ImportError as error:
        raise ConfigError("simulate-faults needs the package greenlet: install it") from error
    if trace:
        for line in simulate(first, keep_trace=True).trace:
            print(*line)  # noqa: T201 -- this is the product
    began_s, broken = time.monotonic(), 0
    for verdict in simulate_many(range(first, first + seeds), workers):
        broken += bool(verdict.broken)
        for what in verdict.broken:
            print(f"seed {verdict.seed}: {what}")  # noqa: T201 -- this is the product
    took_s = time.monotonic() - began_s
    print(f"{seeds:,} seeds in {took_s:.0f} s: {broken} broke a law")  # noqa: T201 -- the same
    raise typer.Exit(int(broken > 0))


def add(app: typer.Typer) -> None:
    """Hook the command into the program."""
    app.command("simulate-faults")(simulate_faults)


def main() -> None:
    """The command alone."""
    typer.run(simulate_faults)
