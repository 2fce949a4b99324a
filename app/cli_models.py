"""The commands around models: simulate, train, tune, finetune, evaluate, threshold.

`add` gives them to the command line. As in `app.cli` nothing is decided here, and what takes time
to import waits until its command runs; where the `train` extra is missing, that is a ConfigError.
"""

# ruff: noqa: PLC0415 -- see above

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.errors import ConfigError

if TYPE_CHECKING:
    from app.train_cli import History
    from models.handbook import World
    from models.threshold import Rule

TRAIN_PACKAGES = frozenset(
    {"lightgbm", "matplotlib", "onnx", "optuna", "pyarrow", "scipy", "sklearn", "threadpoolctl",
     "xgboost"}
)  # fmt: skip

Family = Literal["lightgbm", "xgboost", "mlp", "logistic"]
DEFAULT_FAMILY: Family = "lightgbm"

FamilyOption = Annotated[Family, typer.Option("--family", help="Kind of model.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
WorldSeed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the simulated world.")]
MaybeSeed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Simulated world; its own if not given.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", "--history", help="Your labelled history, CSV or Parquet."),
]
Holdout = Annotated[
    int, typer.Option("--holdout-days", min=2, help="Last days of --data that are not learnt from.")
]
Alerts = Annotated[
    float | None, typer.Option("--alerts-per-day", help="Thresholds for so many alerts a day.")
]
Cost = Annotated[
    str | None, typer.Option("--cost", help="Thresholds of least cost: review=5,decline=25.")
]
TraLimit = Annotated[
    float | None, typer.Option("--tra-limit", help="Thresholds for a fraud rate in % of value.")
]
ModelDir = Annotated[Path, typer.Argument(help="A model's directory.")]

HOLDOUT_DAYS = 14
PROTOCOL = "handbook"
REPLAY_PARTITIONS, REPLAY_WORKERS = 4, 1


def _date(text: str | date) -> date:
    """A day of ISO 8601; a default is one already."""
    return text if isinstance(text, date) else date.fromisoformat(text)


def add(app: typer.Typer) -> None:
    """Give the commands to the command line."""
    for command in (simulate, train, tune, finetune, evaluate, threshold):
        app.command()(command)


def simulate(
    out: Annotated[Path | None, typer.Option(help="Write transactions.parquet there.")] = None,
    seed: WorldSeed = 0,
    customers: Annotated[int, typer.Option(help="How many.")] = 5000,
    terminals: Annotated[int, typer.Option(help="How many.")] = 10_000,
    days: Annotated[int, typer.Option(help="How many.")] = 183,
    start: Annotated[
        date, typer.Option(parser=_date, metavar="YYYY-MM-DD", help="First day.")
    ] = date(2018, 4, 1),
    extra: Annotated[
        list[str] | None, typer.Option(help="card-testing or drift; may be repeated.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Simulate payments as the Fraud Detection Handbook does, exactly; print their counts."""
    with _train_extra():
        from app.simulate_cli import run
        from models.handbook import World

    world = World(seed, customers, terminals, days, start, extra=tuple(extra or ()))
    run(out, world, as_json=as_json)


def train(
    family: FamilyOption = DEFAULT_FAMILY,
    data: Data = None,
    seed: WorldSeed = 0,
    out: Annotated[Path, typer.Option(help="Directory of the model.")] = Path("model"),
    params: Annotated[
        Path | None, typer.Option(help="JSON of parameters, as `riskwire tune` writes.")
    ] = None,
    holdout_days: Holdout = HOLDOUT_DAYS,
    alerts_per_day: Alerts = None,
    cost: Cost = None,
    tra_limit: TraLimit = None,
    *,
    as_json: Json = False,
) -> None:
    """Train a model, choose its thresholds, measure it, and write it with manifest and card.

    Of simulated payments, or of your own: a file with customer_id, terminal_id, event_time,
    amount_minor and fraud (1, 0, or empty), at least two months of it. A label counts a week after
    its payment.
    """
    with _train_extra():
        from app.train_cli import run_train

    rule = _rule(alerts_per_day, cost, tra_limit)
    run_train(family, _payments(data, holdout_days, seed), seed, out, params, rule, as_json=as_json)


def tune(
    family: FamilyOption = DEFAULT_FAMILY,
    data: Data = None,
    seed: WorldSeed = 0,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many in all, those in --study included.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Begin no trial after them.")] = None,
    study: Annotated[
        Path | None, typer.Option(help="Journal: the search goes on where it was broken off.")
    ] = None,
    out: Annotated[Path, typer.Option(help="File of the best.")] = Path("params.json"),
    holdout_days: Holdout = HOLDOUT_DAYS,
    *,
    as_json: Json = False,
) -> None:
    """Search a family's parameters on weeks that lie before every test week.

    30 trials unless --trials or --minutes are given; the first are the defaults.
    """
    with _train_extra():
        from app.tune_cli import run

    payments = _payments(data, holdout_days, seed)
    run(family, payments, seed, out, trials, minutes, study, as_json=as_json)


def finetune(
    model: ModelDir,
    data: Data = None,
    seed: MaybeSeed = None,
    days_later: Annotated[
        int, typer.Option(min=1, help="Simulated days after those that the model knows.")
    ] = 7,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the new model; MODEL-finetuned if not given.")
    ] = None,
    holdout_days: Holdout = HOLDOUT_DAYS,
    alerts_per_day: Alerts = None,
    cost: Cost = None,
    tra_limit: TraLimit = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Write it even if it is worse.")] = False,
    as_json: Json = False,
) -> None:
    """Go on from a model with recent labelled payments; a worse one is not written (status 1).

    Thresholds are picked anew, by the rule of the old ones unless another is given.
    """
    with _train_extra():
        from app.train_cli import History, run_finetune

    history = None if data is None else History(data, holdout_days)
    given = (alerts_per_day, cost, tra_limit)
    rule = None if given == (None, None, None) else _rule(*given)
    status = run_finetune(model, history, seed, days_later, out, rule, force=force, as_json=as_json)
    raise typer.Exit(status)


def evaluate(
    protocol: Annotated[str, typer.Option(help="Which benchmark.")] = PROTOCOL,
    seed: WorldSeed = 0,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Family or model's directory, may be repeated; lightgbm and mlp if not given."
        ),
    ] = None,
    alerts_per_day: Alerts = None,
    cost: Cost = None,
    tra_limit: TraLimit = None,
    *,
    as_json: Json = False,
    scores: Annotated[
        Path | None, typer.Option(help="Parquet of every judged payment's score.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="One self-contained HTML page.")] = None,
    through_kafka: Annotated[
        bool, typer.Option("--through-kafka", help="Replay through a real broker and worker.")
    ] = False,
    partitions: Annotated[
        int | None, typer.Option(min=1, max=64, help="Of the replay's topics; 4 if not given.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=16, help="That share the replay; 1 if not given.")
    ] = None,
) -> None:
    """Measure models on the public benchmark, beside the book's recipe and the oracle.

    Status 1 where a model is better than the oracle: suspected leakage.
    """
    models = model or []
    if through_kafka:
        fixed = {
            "--protocol": None if protocol == PROTOCOL else protocol,
            "--alerts-per-day": alerts_per_day, "--cost": cost, "--tra-limit": tra_limit,
        }  # fmt: skip
        _refuse(fixed, "--through-kafka replays the handbook at 100 alerts a day: leave out")
        count = (partitions or REPLAY_PARTITIONS, workers or REPLAY_WORKERS)
        raise typer.Exit(
            _replay(seed, models, count, as_json=as_json, scores=scores, report=report)
        )
    replayed = {"--partitions": partitions, "--workers": workers}
    _refuse(replayed, "only a replay has them: add --through-kafka or leave out")
    with _train_extra():
        from app.evaluate_cli import run

    rule = _rule(alerts_per_day, cost, tra_limit)
    status = run(protocol, seed, models, rule, as_json=as_json, scores=scores, report=report)
    raise typer.Exit(status)


def threshold(
    model: ModelDir,
    alerts_per_day: Alerts = None,
    cost: Cost = None,
    tra_limit: TraLimit = None,
    data: Data = None,
    seed: MaybeSeed = None,
    *,
    as_json: Json = False,
) -> None:
    """Pick a model's REVIEW and DECLINE thresholds by a budget, and write them into it.

    On payments that it has not learnt from: the week whose labels are the first after its training,
    or the last of another file. Without a rule: 100 alerts a day.
    """
    with _train_extra():
        from app.evaluate_cli import set_thresholds

    rule = _rule(alerts_per_day, cost, tra_limit)
    set_thresholds(model, rule, seed, data, as_json=as_json)


def _payments(data: Path | None, holdout_days: int, seed: int) -> "World | History":
    from app.train_cli import History
    from models.handbook import World

    return World(seed) if data is None else History(data, holdout_days)


def _rule(alerts_per_day: float | None, cost: str | None, tra_limit: float | None) -> "Rule":
    from app.evaluate_cli import rule_of

    return rule_of(alerts_per_day, cost, tra_limit)


def _refuse(options: Mapping[str, object], advice: str) -> None:
    """Raise ConfigError where one of these options was given."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{advice} {', '.join(given)}")


def _replay(
    seed: int,
    models: list[str],
    count: tuple[int, int],
    *,
    as_json: bool,
    scores: Path | None,
    report: Path | None,
) -> int:
    with _train_extra():
        from app.evaluate_cli import model_of
        from app.replay import run

    chosen = model_of(models[0]) if models else DEFAULT_FAMILY
    if len(models) > 1 or not isinstance(chosen, str):
        raise ConfigError("--through-kafka replays one family: --model lightgbm")
    partitions, workers = count
    return run(
        seed, chosen, partitions=partitions, workers=workers, as_json=as_json, scores=scores,
        report=report,
    )  # fmt: skip


@contextmanager
def _train_extra() -> Iterator[None]:
    """Say which extra is missing where an import of it fails."""
    from app.adapters.openmp import provide

    provide()
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAIN_PACKAGES:
            raise
        advice = f"{error.name} is not installed: pip install 'riskwire[train]'"
        raise ConfigError(advice) from None
    except OSError as error:  # a wheel whose system library is missing
        raise ConfigError(f"a library of riskwire[train] cannot be loaded: {error}") from None
