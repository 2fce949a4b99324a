"""`riskwire bench overload`: hooked into the group `bench` by `app.cli`."""

# ruff: noqa: PLC0415 -- imports wait until the command runs, as in app.cli

from typing import Annotated

import typer


def add(bench: typer.Typer) -> None:
    """Add the command to the group."""
    bench.command("overload")(overload)


def overload(
    seconds: Annotated[float, typer.Option(min=5, help="How long the burst lasts.")] = 300.0,
    factor: Annotated[float, typer.Option(min=1, help="How many times the peak comes.")] = 3.0,
    shed_after_ms: Annotated[int, typer.Option(min=0, help="0: shed nothing.")] = 1000,
    bootstrap: Annotated[str | None, typer.Option(help="A Kafka that is there already.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Send more than a worker can take; status 1 if memory, goodput or assignment suffer."""
    from rich.console import Console

    from app.bench import overload as its

    console = Console(stderr=True)
    report = its.run(
        seconds=seconds,
        factor=factor,
        shed_after_ms=shed_after_ms,
        bootstrap=bootstrap,
        say=lambda line: console.print(line, highlight=False),
    )
    if as_json:
        import json

        typer.echo(json.dumps(report))
    else:
        its.show(report, Console())
    raise typer.Exit(bool(report["missed"]))
