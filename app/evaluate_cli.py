"""`riskwire evaluate` and `riskwire threshold`: the public benchmark, and thresholds by budget.

In: names of models (families, or directories of shipped models) and a rule for thresholds. Out:
tables or one JSON object on standard output, progress on standard error, and the files that were
asked for. Exit status 1 where an average precision is above the oracle's: a label was read too
early, somewhere. Raises ConfigError for what cannot be done, before anything long begins.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.errors import ConfigError
from models.card import CARD_FILE, save
from models.evaluate import (
    ALERTS_A_DAY,
    BOOK_PUBLISHED,
    CALLED,
    CAVEAT,
    ORACLE,
    Evaluation,
    evaluate,
    write_scores,
)
from models.fit import FAMILIES, Family, Scores
from models.handbook import World
from models.labelled import HANDBOOK, Labelled, of_file, of_world
from models.manifest import Artefact, Manifest, Thresholds, read, write
from models.metrics import Skill
from models.mistakes import SCENARIOS
from models.protocol import DELAY_DAYS, FOLDS, TEST_DAYS
from models.threshold import ByAlerts, ByCost, ByTra, Costs, Rule, parse_costs
from models.train import choose, expected

PROTOCOLS = ("handbook",)
DEFAULT_MODELS: tuple[Family, ...] = ("lightgbm", "mlp")
"""The default of the demo, and the net that stands for graphics cards; both in a few minutes."""


def run(
    protocol: str,
    seed: int,
    models: Sequence[str],
    rule: Rule,
    *,
    as_json: bool,
    scores: Path | None,
    report: Path | None,
) -> int:
    """Evaluate, write the files, print; the exit status."""
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol {protocol!r} is not one of: {', '.join(PROTOCOLS)}")
    chosen = [model_of(name) for name in models] or DEFAULT_MODELS
    for path in (scores, report):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"cannot write {path}: {path.parent} is no directory")
    world, console = World(seed), Console(stderr=True)
    evaluation = evaluate(world, chosen, rule, say=lambda text: console.print(f"{text} …"))
    return publish(evaluation, rule.costs, as_json=as_json, scores=scores, report=report)


def publish(
    evaluation: Evaluation,
    costs: Costs,
    *,
    as_json: bool,
    scores: Path | None = None,
    report: Path | None = None,
) -> int:
    """Print an evaluation and write its files; the exit status."""
    if scores is not None:
        write_scores(evaluation, scores)
    if report is not None:
        from models.report import write as write_report  # noqa: PLC0415 -- matplotlib takes time

        write_report(evaluation, report, costs)
    if as_json:
        print(json.dumps(summary(evaluation)))  # noqa: T201 -- this is the product
    else:
        _show(evaluation, Console())
    alarm = Console(stderr=True, style="bold red", highlight=False)
    for name in evaluation.leaking:
        alarm.print(f"suspected leakage: {name} has a higher average precision than the oracle")
    if evaluation.seen:
        folds = ", ".join(map(str, evaluation.seen))
        alarm.print(f"the model learnt from days of the test weeks of folds {folds}: no test")
    return 1 if evaluation.leaking else 0


def model_of(name: str) -> Family | Artefact:
    """A family by its name, else a model's directory; raises ConfigError for neither."""
    for family in FAMILIES:
        if name == family:
            return family
    if not Path(name).is_dir():
        families = ", ".join(FAMILIES)
        raise ConfigError(f"{name!r} is neither a model's directory nor one of: {families}")
    return read(Path(name))


def rule_of(alerts_per_day: float | None, cost: str | None, tra_limit: float | None) -> Rule:
    """The rule that was given, ALERTS_A_DAY if none was.

    A cost beside another rule sets what money is counted with.
    """
    costs = parse_costs(cost) if cost is not None else Costs()
    if alerts_per_day is not None and tra_limit is not None:
        raise ConfigError("give either --alerts-per-day or --tra-limit")
    if tra_limit is not None:
        return ByTra(tra_limit, costs)
    if alerts_per_day is not None:
        return ByAlerts(alerts_per_day, costs)
    return ByCost(costs) if cost is not None else ByAlerts(ALERTS_A_DAY)


def set_thresholds(
    directory: Path, rule: Rule, seed: int | None, history: Path | None, *, as_json: bool
) -> None:
    """Pick a model's thresholds on payments it has not learnt from; write them to its manifest."""
    artefact = read(directory)
    manifest = artefact.manifest
    data, days = _validation(manifest, seed, history)
    if days.stop > data.day[-1] + 1 or not len(data.judged(days)):
        raise ConfigError(f"there are no labelled payments of days {days.start} to {days.stop}")
    choice = choose(Scores(artefact.model), data, days, rule)
    thresholds = Thresholds(review=choice.review, decline=choice.decline)
    changed = {**dict(manifest), "thresholds": thresholds, "expected": expected(choice)}
    store = save if (directory / CARD_FILE).exists() else write
    store(directory, artefact._replace(manifest=Manifest.model_validate(changed)))
    if as_json:
        found = {**asdict(choice), "days": [days.start, days.stop]}
        print(json.dumps(found))  # noqa: T201 -- this is the product
        return
    console = Console(highlight=False)
    console.print(f"{manifest.model_id}: review from {choice.review:.6f} on, decline from"
                  f" {choice.decline:.6f} on, by {choice.rule}")  # fmt: skip
    if isinstance(rule, ByTra) and rule.exempt_up_to:
        console.print(f"the rate exempts remote card payments up to EUR {rule.exempt_up_to}")
    table = Table("expected", title=f"On days {days.start} to {days.stop - 1}")
    table.add_column(justify="right")
    for name, value in choice.expected.items():
        table.add_row(name.replace("_", " "), f"{value:,.3f}")
    console.print(table)


def _validation(
    manifest: Manifest, seed: int | None, history: Path | None
) -> tuple[Labelled, range]:
    """Labelled payments and the week among them on which thresholds are picked.

    In the data that the model learnt from, and in any world, the week that begins a label delay
    after its last training day; in another file the last week.
    """
    training = manifest.training
    own = training.get("data") == HANDBOOK
    if history is not None:
        data = of_file(history, manifest.timing)
        own = data.source["file_sha256"] == training.get("file_sha256")
        last = int(data.day[-1]) + 1 - TEST_DAYS
    elif own or seed is not None:
        customers, terminals, days = (
            int(training[name]) if own else int(getattr(World(), name))
            for name in ("customers", "terminals", "days")
        )
        number = int(training["seed"]) if seed is None else seed
        data = of_world(World(number, customers, terminals, days), manifest.timing)
        last = FOLDS[0].test.start
    else:
        raise ConfigError("the model did not learn from a world: give --history FILE or --seed S")
    first = int(training["stop_day"]) + DELAY_DAYS if own else last
    return data, range(first, first + TEST_DAYS)


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The figures as plain values, without the scores."""
    data, means = evaluation.data, evaluation.means
    pairs = zip(FOLDS, data.rows, strict=True)
    return {
        "protocol": "handbook",
        "seed": data.world.seed,
        "transactions": data.counts.transactions,
        "frauds": data.counts.frauds,
        "folds": [
            {
                "fold": fold.number,
                "book_train_days": [fold.book_train.start, fold.book_train.stop],
                "train_days": [fold.train.start, fold.train.stop],
                "test_days": [fold.test.start, fold.test.stop],
                "test_transactions": len(rows),
                "test_frauds": int(data.payments.fraud[rows].sum()),
            }
            for fold, rows in pairs
        ],
        "chosen": evaluation.chosen,
        "results": {
            name: {
                **asdict(means[name]),
                "folds": [asdict(skill) for skill in skills],
                "recall_by_scenario": evaluation.recalls[name],
            }
            for name, skills in evaluation.skills.items()
        },
        "recall_at_alerts_per_day": ALERTS_A_DAY,
        "book_published": asdict(BOOK_PUBLISHED),
        "thresholds": [asdict(one) for one in evaluation.thresholds],
        "suspected_leakage": list(evaluation.leaking),
        "seen_folds": list(evaluation.seen),
        "note": CAVEAT,
    }


def _show(evaluation: Evaluation, console: Console) -> None:
    means, recalls = evaluation.means, evaluation.recalls
    kinds = sorted(recalls[ORACLE])
    table = Table(title=f"Fraud Detection Handbook, world {evaluation.data.world.seed}")
    table.add_column("mean of four folds", no_wrap=True)
    for head in ("AUC", "AP", "CP@100", *(SCENARIOS[kind] for kind in kinds)):
        table.add_column(head, justify="right")
    beside = [name for name in CALLED if name in means]
    for name in (*evaluation.models, *beside):
        if name == beside[0]:
            table.add_section()
        found = (f"{recalls[name].get(kind, 0):.3f}" for kind in kinds)
        table.add_row(CALLED.get(name, name), *_three(means[name]), *found)
    console.print(table)
    console.print(
        f"By kind of fraud: recall of the {ALERTS_A_DAY} highest scores of each day. The book"
        f" prints {' / '.join(_three(BOOK_PUBLISHED))} for its recipe in world 0.\n{CAVEAT}",
        highlight=False,
    )
    if evaluation.thresholds:
        console.print(_asked(evaluation))


def _asked(evaluation: Evaluation) -> Table:
    rule = evaluation.thresholds[0].asked
    table = Table(title=f"Thresholds of {evaluation.chosen} by {rule}: expected → realised")
    for head in ("fold", "review", "decline", "alerts a day", "precision", "recall",
                 "saved a day"):  # fmt: skip
        table.add_column(head, justify="right")
    for one in evaluation.thresholds:
        table.add_row(
            str(one.fold), f"{one.review:.4f}", f"{one.decline:.4f}",
            *(
                f"{_number(one.expected.get(name))} → {_number(one.realised[name])}"
                for name in ("alerts_per_day", "review_precision", "review_recall",
                             "money_saved_per_day")
            ),
        )  # fmt: skip
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _three(skill: Skill) -> tuple[str, str, str]:
    return f"{skill.auc:.3f}", f"{skill.average_precision:.3f}", f"{skill.card_precision:.3f}"
