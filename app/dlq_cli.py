"""The commands around dead letters: ls, show, replay.

`add` gives them to the command line. As in `app.cli` nothing is decided here, and what takes time
to import waits until its command runs.
"""

# ruff: noqa: PLC0415 -- see above

import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from app.config import Settings
    from app.dead_letter import Wanted

RATE, COUNT_MAX = 500.0, 3

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Codes = Annotated[list[str] | None, typer.Option("--code", help="Only of this code; repeatable.")]
Since = Annotated[
    str | None,
    typer.Option(help="Written to the dead letters then or later: ISO time (UTC) or 90s, 15m, 2h."),
]
Until = Annotated[str | None, typer.Option(help="Written before that.")]
Partition = Annotated[int | None, typer.Option(min=0, help="Only of this partition.")]
SourceTopic = Annotated[str, typer.Option(help="Only what came from this topic.")]


def add(app: typer.Typer) -> None:
    """Give the commands to the command line."""
    dlq = typer.Typer(
        help="Dead letters: records that could not be scored.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for command in (ls, show, replay):
        dlq.command()(command)
    app.add_typer(dlq, name="dlq")


def ls(
    code: Codes = None,
    since: Since = None,
    until: Until = None,
    partition: Partition = None,
    source_topic: SourceTopic = "",
    *,
    each: Annotated[bool, typer.Option("--list", help="A line for each letter.")] = False,
    as_json: Json = False,
) -> None:
    """Count dead letters by code; with --list say where each one came from, never its contents."""
    from app import dlq

    wanted = _wanted(code, since, until, partition, source_topic)
    dlq.ls(_settings(), wanted, each=each, as_json=as_json)


def show(
    at: Annotated[str | None, typer.Argument(metavar="PARTITION:OFFSET")] = None,
    source: Annotated[str | None, typer.Option(help="TOPIC/PARTITION/OFFSET it came from.")] = None,
    *,
    values: Annotated[bool, typer.Option("--values", help="Contents too: card data.")] = False,
    full: Annotated[bool, typer.Option("--full", help="All of the contents.")] = False,
) -> None:
    """Say all of one dead letter: why, which field, what to do; status 1 if there is none."""
    from app.dlq_show import Shown
    from app.dlq_show import show as shown

    raise typer.Exit(shown(_settings(), at, source, Shown(values or full, full)))


def replay(
    code: Codes = None,
    since: Since = None,
    until: Until = None,
    partition: Partition = None,
    source_topic: SourceTopic = "",
    rate: Annotated[float, typer.Option(min=0.1, help="Records a second, at most.")] = RATE,
    records_max: Annotated[
        int | None, typer.Option("--max", min=1, help="So many at most.")
    ] = None,
    count_max: Annotated[
        int, typer.Option(min=1, help="Leave what was replayed so often and came back.")
    ] = COUNT_MAX,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send records again to where they came from, each position once; status 1 if one cannot be."""
    from app import dlq

    wanted = _wanted(code, since, until, partition, source_topic)
    how = dlq.How(rate, records_max, count_max, dry_run)
    raise typer.Exit(dlq.replay(_settings(), wanted, how, as_json=as_json))


def _wanted(
    codes: list[str] | None,
    since: str | None,
    until: str | None,
    partition: int | None,
    topic: str,
) -> "Wanted":
    from app.dead_letter import Wanted, instant_ms, known_codes

    now_ms = time.time_ns() // 1_000_000
    return Wanted(
        known_codes(codes or ()),
        instant_ms(since, now_ms) if since else 0,
        instant_ms(until, now_ms) if until else None,
        partition,
        topic,
    )


def _settings() -> "Settings":
    from app import logs
    from app.config import load_settings

    settings = load_settings()
    logs.configure(settings)
    return settings
