"""The commands around the state: `riskwire state status`, `snapshot`, `rebuild` and `verify`.

`add` gives them to the command line. As in `app.cli` nothing is decided here, and what takes time
to import waits until its command runs.
"""

# ruff: noqa: PLC0415 -- see above

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import ConfigError

if TYPE_CHECKING:
    from app.config import Settings

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Partitions = Annotated[
    list[int] | None,
    typer.Option("--partition", help="Only this one; may be repeated."),
]

state = typer.Typer(
    help="The feature state of each partition: in Redis, in Kafka, and as snapshots on disk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def add(app: typer.Typer) -> None:
    """Give the commands to the command line."""
    app.add_typer(state, name="state")


@state.command()
def status(*, as_json: Json = False) -> None:
    """Say where each partition's state is and whose, and what wants attention (status 1 then)."""
    from app.state_status import run

    raise typer.Exit(run(_settings(), as_json=as_json))


@state.command()
def snapshot(
    to: Annotated[
        Path | None, typer.Option(help="Directory; RISKWIRE_SNAPSHOT_DIR if not given.")
    ] = None,
    partition: Partitions = None,
) -> None:
    """Write each partition's state as one file, from which it can be restored.

    Workers may go on; one that flushes all the time is waited for, and in the end not.
    """
    from app.state_tools import snapshot as run

    run(_settings(), to, partition or [])


@state.command()
def rebuild(
    partition: Partitions = None,
    from_snapshot: Annotated[
        Path | None,
        typer.Option("--from-snapshot", help="Directory; RISKWIRE_SNAPSHOT_DIR if not given."),
    ] = None,
    *,
    from_log: Annotated[
        bool, typer.Option("--from-log", help="Build it from the oldest records instead.")
    ] = False,
) -> None:
    """Let the next owner begin with a snapshot, or without one with the oldest records.

    The workers must be stopped.
    """
    from app.state_tools import rebuild as run

    if from_log and from_snapshot is not None:
        raise ConfigError("give either --from-snapshot or --from-log")
    run(_settings(), partition or [], from_snapshot, from_log=from_log)


@state.command()
def verify(partition: Partitions = None, *, as_json: Json = False) -> None:
    """Make each partition's state anew from its logs and compare every blob, bit for bit.

    Status 1 where one differs, or where the logs no longer tell. All of a partition's state is in
    memory meanwhile.
    """
    from app.state_tools import verify as run

    raise typer.Exit(run(_settings(), partition or [], as_json=as_json))


def _settings() -> "Settings":
    from app import logs
    from app.config import load_settings

    settings = load_settings()
    logs.configure(settings)
    return settings
