"""`riskwire bench hostile`: input as an attack, measured.

`add` gives it to the group of benchmarks; what takes time to import waits until it runs.
"""

# ruff: noqa: PLC0415 -- see above

from typing import Annotated

import typer


def add(bench: typer.Typer) -> None:
    """Add the command."""
    bench.command("hostile")(bench_hostile)


def bench_hostile(
    records: Annotated[int, typer.Option(min=10_000, help="Good transactions.")] = 300_000,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 3,
    bootstrap: Annotated[str | None, typer.Option(help="A Kafka that is there already.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Measure what hostile records cost; status 1 if a goal is missed."""
    import json

    from rich.console import Console

    from app.bench import hostile

    console = Console(stderr=True)
    report = hostile.run(
        records, rounds, bootstrap, lambda line: console.print(line, highlight=False)
    )
    if as_json:
        typer.echo(json.dumps(report))
    else:
        hostile.show(report, Console())
    if report["missed"]:
        raise typer.Exit(1)
