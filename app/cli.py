"""The command `riskwire`: parses arguments, reads the settings, calls; nothing is decided here.

Every import that takes time waits until its command runs, so that help comes at once. Exit status:
0 done, 1 a check failed, 2 a setting or an argument is wrong, 3 something outside does not answer,
130 interrupted.
"""

# ruff: noqa: PLC0415 -- see above

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from app import (
    bench_cli,
    chaos_cli,
    cli_models,
    dlq_cli,
    schemas_cli,
    simulation_cli,
    state_cli,
    verify_cli,
)
from app.errors import ConfigError, RiskwireError, Unavailable

if TYPE_CHECKING:
    from app.config import Settings

NAME = "riskwire"
EXIT_CONFIG, EXIT_UNAVAILABLE, EXIT_INTERRUPTED = 2, 3, 130


def _group(text: str) -> typer.Typer:
    return typer.Typer(
        help=text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )


app = _group("Score payments for fraud risk while they stream through Kafka.")
topics = _group("Kafka's topics.")
features = _group("What the features are, and the state behind them in the online store.")
app.add_typer(topics, name="topics")
app.add_typer(features, name="features")
for more in (
    bench_cli,
    cli_models,
    state_cli,
    dlq_cli,
    schemas_cli,
    verify_cli,
    chaos_cli,
    simulation_cli,
):
    more.add(app)

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Seed = Annotated[int, typer.Option(help="Seed of the simulated population.")]
Rate = Annotated[float, typer.Option(min=0.1, help="Transactions a second.")]
FromBeginning = Annotated[bool, typer.Option("--from-beginning", help="Not only what is new.")]
Max = Annotated[int | None, typer.Option("--max", min=1, help="End after so many records.")]
Timeout = Annotated[
    float | None, typer.Option(min=0.1, help="End after so many seconds without a record.")
]


@app.command()
def worker() -> None:
    """Score transactions until stopped (SIGTERM or Ctrl-C)."""
    # To look for garbage among what is imported, and stays, would be a quarter of the start.
    gc.disable()
    from app.wiring import run

    raise typer.Exit(run(_settings()))


@app.command("warm-up")
def warm_up() -> None:
    """Compile what a worker runs, so that its start is quick; images and `make demo` do it."""
    from app.wiring import compile_all

    compile_all(_settings())


@app.command()
def demo(
    transactions: Annotated[int, typer.Option(min=100, help="How many.")] = 20_000,
    rate: Rate = 2_000.0,
    seed: Seed = 0,
    *,
    as_json: Json = False,
) -> None:
    """See transactions scored on this machine: Kafka, Redis and a worker, all embedded."""
    from app.demo.run import run

    raise typer.Exit(run(transactions, rate, seed, as_json=as_json))


@app.command()
def produce(
    rate: Rate = 100.0,
    count: Annotated[int, typer.Option(min=1, help="How many transactions.")] = 1_000,
    seed: Seed = 0,
    broken: Annotated[int, typer.Option(min=0, help="Broken records among them.")] = 0,
) -> None:
    """Send simulated transactions, each at its own time."""
    from app.produce import run

    run(_settings(), rate, count, seed, broken)


@app.command()
def alerts(
    *,
    as_json: Json = False,
    from_beginning: FromBeginning = False,
    records_max: Max = None,
    timeout: Timeout = None,
) -> None:
    """Follow the alerts."""
    from app.watch import Until, follow

    until = Until(records_max, timeout)
    follow(_settings(), "alerts", until, as_json=as_json, from_beginning=from_beginning)


@app.command()
def scores(
    *,
    as_json: Json = False,
    from_beginning: FromBeginning = False,
    records_max: Max = None,
    timeout: Timeout = None,
) -> None:
    """Follow the scores."""
    from app.watch import Until, follow

    until = Until(records_max, timeout)
    follow(_settings(), "scores", until, as_json=as_json, from_beginning=from_beginning)


@topics.command("apply")
def topics_apply() -> None:
    """Make topics as the settings want them, and register schemas; may be run again."""
    from app.prepare import apply

    changes = apply(_settings())
    for change in changes:
        typer.echo(f"{change.topic}: {change.action} ({change.detail})")
    if any(change.action == "differs" for change in changes):
        typer.echo(
            "What differs was left as it is: another partition count moves customers away from"
            " their history. See `riskwire doctor`.",
            err=True,
        )
        raise typer.Exit(1)


@app.command()
def doctor(*, as_json: Json = False) -> None:
    """Check the installation, Kafka, Redis and the model; say what to do."""
    from app.doctor import run

    raise typer.Exit(run(_settings(), as_json=as_json))


@app.command()
def config(
    *,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The reference, as Markdown.")
    ] = False,
    env: Annotated[bool, typer.Option("--env", help="An env file to start from.")] = False,
) -> None:
    """Show every setting: its value, who set it and what it means."""
    from app import config_page

    entries = config_page.entries(_settings())
    if markdown:
        typer.echo(config_page.markdown(entries))
    elif env:
        typer.echo(config_page.env_file(entries))
    else:
        config_page.show(entries)


@features.command("backfill")
def features_backfill(
    history: Annotated[
        Path | None, typer.Option(help="CSV (or Parquet) file of past transactions.")
    ] = None,
    seed: Seed = 0,
    days: Annotated[int, typer.Option(min=1, max=365, help="Simulated days.")] = 45,
    *,
    simulate: Annotated[bool, typer.Option("--simulate", help="Simulate the history.")] = False,
) -> None:
    """Make the state from past transactions, which end before the topic's first; stop workers."""
    from app.backfill import run

    if (history is None) == (not simulate):
        raise ConfigError("give either --history FILE or --simulate")
    run(_settings(), history, seed, days)


@features.command("get")
def features_get(
    entity: Annotated[str, typer.Argument(help="customer or terminal")],
    token: Annotated[str, typer.Argument(help="Its identifier.")],
    *,
    as_json: Json = False,
) -> None:
    """Show what is known of an entity, as the worker reads it; status 1 if that is nothing."""
    from app.features_cli import show

    raise typer.Exit(show(_settings(), entity, token, as_json=as_json))


@features.command("list")
def features_list(*, as_json: Json = False) -> None:
    """Say of every feature whose it is, what it is made of, and what it says."""
    from app.features_cli import show_list

    show_list(as_json=as_json)


@app.command()
def version() -> None:
    """Show the version."""
    from importlib.metadata import version as installed

    typer.echo(f"{NAME} {installed(NAME)}")


def _settings() -> "Settings":
    from app import logs
    from app.config import load_settings

    settings = load_settings()
    logs.configure(settings)
    return settings


def main() -> NoReturn:
    """Run the command line; every known error becomes one message and an exit status."""
    try:
        app()
    except ConfigError as error:
        _fail(error, EXIT_CONFIG)
    except Unavailable as error:
        _fail(error, EXIT_UNAVAILABLE)
    except RiskwireError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0)


def _fail(error: RiskwireError, status: int) -> NoReturn:
    typer.echo(f"{NAME}: {error}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
