"""The group `riskwire bench`; as in `app.cli` nothing is decided here.

Each command prints its report as JSON or as tables; status 1 where it missed a goal of its own.
"""

# ruff: noqa: PLC0415 -- what takes time to import waits until the command runs

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

bench = typer.Typer(
    help="Measure, on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Bootstrap = Annotated[str | None, typer.Option(help="A Kafka that is there already.")]
Html = Annotated[Path | None, typer.Option(help="Write a page with the curves, too.")]
Records = Annotated[int, typer.Option(min=10_000, help="Transactions.")]
Rounds = Annotated[int, typer.Option(min=1, help="Runs of each lane.")]
Seconds = Annotated[float, typer.Option(min=1, help="Each run, less the warm-up.")]
Delivery = Annotated[str, typer.Option(help="Only this guarantee.")]
Lanes = Annotated[str, typer.Option(help="Only these, comma separated.")]


def add(app: typer.Typer) -> None:
    """Give the group to the command line."""
    app.add_typer(bench, name="bench")


@bench.command()
def throughput(
    records: Records = 1_000_000,
    rounds: Rounds = 3,
    lanes: Lanes = "",
    bootstrap: Bootstrap = None,
    *,
    as_json: Json = False,
) -> None:
    """Drain a topic with Riskwire and with its peers, on the same Kafka."""
    from app.bench import throughput as its

    report = its.run(
        records=records,
        rounds=rounds,
        lanes=lanes.split(",") if lanes else tuple(its.LANES),
        bootstrap=bootstrap,
        say=_say,
    )
    _show(report, its.show, as_json=as_json)


@bench.command()
def luxuries(
    records: Records = 1_000_000,
    rounds: Rounds = 5,
    bootstrap: Bootstrap = None,
    *,
    as_json: Json = False,
) -> None:
    """What exactly once, the latency record, metrics and reasons cost, each on and off."""
    from app.bench import luxuries as its

    report = its.run(records=records, rounds=rounds, bootstrap=bootstrap, say=_say)
    _show(report, its.show, as_json=as_json)


@bench.command()
def peers(
    records: Records = 1_000_000,
    rounds: Rounds = 3,
    lanes: Lanes = "",
    bootstrap: Bootstrap = None,
    *,
    latency: Annotated[bool, typer.Option(help="Measure latency at 2,000 tx/s, too.")] = True,
    as_json: Json = False,
) -> None:
    """The same work by every other way to do it and by Riskwire, scores compared."""
    from app.bench.peers import run as its
    from app.bench.peers.lanes import LANES

    report = its.run(
        records=records,
        rounds=rounds,
        lanes=lanes.split(",") if lanes else tuple(LANES),
        light=latency,
        bootstrap=bootstrap,
        say=_say,
    )
    _show(report, its.show, as_json=as_json)


@bench.command()
def stages(
    records: Annotated[int, typer.Option(min=10_000, help="Transactions a pass.")] = 200_000,
    batches: Annotated[
        str, typer.Option(help="Records in a micro-batch, comma separated.")
    ] = "1,4,16,64,256,1024,4096",
    *,
    as_json: Json = False,
) -> None:
    """Each stage beside its floor, without Kafka; status 1 if a ratio is not what it must be."""
    from app.bench import stages as its

    _show(its.run(records, its.numbers_of(batches)), its.show, as_json=as_json)


@bench.command()
def scaling(
    records: Annotated[int, typer.Option(min=2_000, help="Transactions a pass.")] = 20_000,
    entities: Annotated[
        str, typer.Option(help="Customers and terminals in memory; 1,000,000 take 5 GB.")
    ] = "10000,100000,1000000",
    *,
    as_json: Json = False,
) -> None:
    """Measure cost and memory as state, partitions, model and messages grow, without Kafka."""
    from app.bench import scaling as its
    from app.bench.stages import numbers_of

    _show(its.run(records, numbers_of(entities), _say), its.show, as_json=as_json)


@bench.command()
def latency(
    rates: Annotated[str, typer.Option(help="Transactions a second.")] = "2000,20000",
    seconds: Seconds = 20.0,
    arrivals: Annotated[str, typer.Option(help="constant, poisson or burst.")] = "constant",
    delivery: Delivery = "",
    stall_ms: Annotated[float, typer.Option(min=0, help="Stop the worker so long midway.")] = 0.0,
    html: Html = None,
    bootstrap: Bootstrap = None,
    *,
    echo: Annotated[bool, typer.Option(help="The floor: two hops and no work.")] = True,
    as_json: Json = False,
) -> None:
    """From a transaction's due time until its score can be read, open loop."""
    from app.bench import latency as its
    from app.bench.arrivals import checked

    guarantees = [its.guarantee_of(delivery)] if delivery else its.GUARANTEES
    trials = [
        its.Trial(rate, seconds, checked(arrivals), guarantee, stall_ms=stall_ms)
        for rate in its.rates_of(rates)
        for guarantee in guarantees
    ]
    report = its.run(trials, echo=echo, bootstrap=bootstrap, say=_say)
    _page(report, html)
    _show(report, its.show, as_json=as_json)


@bench.command()
def curve(
    seconds: Seconds = 20.0,
    delivery: Delivery = "exactly_once",
    sustainable: Annotated[float | None, typer.Option(help="Known; else it is found.")] = None,
    html: Html = None,
    bootstrap: Bootstrap = None,
    *,
    as_json: Json = False,
) -> None:
    """Latency against load: 5 to 105 % of the sustainable rate, a burst, and the floor."""
    from app.bench import sustainable as its
    from app.bench.latency import guarantee_of

    report = its.curve(
        guarantee=guarantee_of(delivery),
        seconds=seconds,
        sustainable=sustainable,
        bootstrap=bootstrap,
        say=_say,
    )
    _page(report, html)
    _show(report, its.show, as_json=as_json)


@bench.command()
def sustainable(
    seconds: Annotated[float, typer.Option(min=1, help="Each rate; 300 to be sure.")] = 20.0,
    delivery: Delivery = "exactly_once",
    bound_ms: Annotated[float, typer.Option(min=1, help="Of the 99th percentile.")] = 1000.0,
    bootstrap: Bootstrap = None,
    *,
    as_json: Json = False,
) -> None:
    """Find the highest rate at which no backlog grows."""
    from app.bench import sustainable as its
    from app.bench.latency import guarantee_of

    report = its.run(
        guarantee=guarantee_of(delivery),
        seconds=seconds,
        bound_ms=bound_ms,
        bootstrap=bootstrap,
        say=_say,
    )
    _show(report, its.show, as_json=as_json)


@bench.command()
def overload(
    seconds: Annotated[float, typer.Option(min=5, help="How long the burst lasts.")] = 300.0,
    factor: Annotated[float, typer.Option(min=1, help="How many times the peak comes.")] = 3.0,
    shed_after_ms: Annotated[int, typer.Option(min=0, help="0: shed nothing.")] = 1000,
    bootstrap: Bootstrap = None,
    *,
    as_json: Json = False,
) -> None:
    """Send more than a worker can take; status 1 if memory, goodput or assignment suffer."""
    from app.bench import overload as its

    report = its.run(
        seconds=seconds,
        factor=factor,
        shed_after_ms=shed_after_ms,
        bootstrap=bootstrap,
        say=_say,
    )
    _show(report, its.show, as_json=as_json)


@bench.command()
def hostile(
    records: Annotated[int, typer.Option(min=10_000, help="Good transactions.")] = 300_000,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 3,
    bootstrap: Bootstrap = None,
    *,
    as_json: Json = False,
) -> None:
    """Measure what hostile records cost; status 1 if a goal is missed."""
    from app.bench import hostile as its

    _show(its.run(records, rounds, bootstrap, _say), its.show, as_json=as_json)


def _page(report: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        from app.bench.page import write

        write(report, path)
        _say(f"wrote {path}")


def _say(line: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(line, highlight=False)


def _show(
    report: dict[str, Any], show: "Callable[[dict[str, Any], Console], None]", *, as_json: bool
) -> None:
    import json

    from rich.console import Console

    if as_json:
        typer.echo(json.dumps(report))
    else:
        show(report, Console())
    raise typer.Exit(bool(report.get("missed")))
