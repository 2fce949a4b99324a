"""The command `riskwire chaos`; as in `app.cli` nothing is decided here."""

# ruff: noqa: PLC0415 -- what takes time to import waits until the command runs

from pathlib import Path
from typing import Annotated, Literal

import typer


def chaos(
    tier: Annotated[Literal["ci", "long"], typer.Option(help="Size of the campaign.")] = "ci",
    seed: Annotated[int, typer.Option(min=0, help="Draws the faults; repeats them.")] = 0,
    transport: Annotated[
        Literal["native", "objects"], typer.Option(help="The workers' transport.")
    ] = "native",
    scale: Annotated[
        float, typer.Option(min=0.001, max=10, help="That share of transactions and faults.")
    ] = 1.0,
    count: Annotated[
        list[str] | None, typer.Option(help="Another number of a kind: kill=2; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Append a row to this Markdown table.")] = None,
    logs: Annotated[
        Path | None, typer.Option(help="Keep the logs of all processes in this directory.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Break workers, Kafka, Redis and the network under load; say whether every law held."""
    import json

    from app.chaos.campaign import run
    from app.chaos.schedule import TIERS

    wanted = TIERS[tier].scaled(scale).with_counts(count or ())
    verdict = run(wanted, seed, transport, lambda line: typer.echo(line, err=as_json), logs)
    if out is not None:
        verdict.append_to(out)
    if as_json:
        typer.echo(json.dumps(verdict.as_json()))
    else:
        typer.echo("\n".join(verdict.lines()))
    raise typer.Exit(0 if verdict.holds else 1)


def add(app: typer.Typer) -> None:
    """Give the command to the command line."""
    app.command()(chaos)
