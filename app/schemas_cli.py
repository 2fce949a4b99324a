"""`riskwire schemas`: what a producer may write.

`add` gives the group to the command line; what takes time to import waits until its command runs.
"""

# ruff: noqa: PLC0415 -- see above

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.errors import ConfigError

Topic = Literal["transactions", "labels"]


def add(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="The schemas of what comes in.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    group.callback()(lambda: None)  # a group stays a group, of one command too
    group.command("lint")(schemas_lint)
    app.add_typer(group, name="schemas")


def schemas_lint(
    files: Annotated[list[Path], typer.Argument(help="Avro schemas, one JSON file each.")],
    topic: Annotated[
        Topic, typer.Option(help="Where records by these schemas are sent.")
    ] = "transactions",
) -> None:
    """Say whether a worker would read records by these schemas, and why not; status 1 if not."""
    verdicts = lint_files(files, topic)
    for file, why in zip(files, verdicts, strict=True):
        typer.echo(f"{file}: {why or 'ok'}")
    if any(verdicts):
        raise typer.Exit(1)


def lint_files(files: Sequence[Path], topic: Topic) -> list[str]:
    """Why each schema is refused, empty if it is not; ConfigError if a file cannot be read."""
    from app.errors import SchemaError
    from app.writers import Writers

    verdicts = []
    for file in files:
        writers = Writers(name={"transactions": "transaction", "labels": "fraud_label"}[topic])
        try:
            writers.add_id(0, file.read_text("utf-8"))
        except SchemaError as error:
            verdicts.append(str(error))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} cannot be read: {error}") from None
        else:
            verdicts.append("")
    return verdicts
