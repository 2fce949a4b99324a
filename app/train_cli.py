"""`riskwire train` and `riskwire finetune`: the way to a model, from simulated or own payments.

In: a family or a model, payments (a simulated world, or a labelled file), and where to write. Out:
a model's directory, and a table or one JSON object on standard output; progress goes to standard
error. Exit status 1 where a fine-tuned model is worse and was not forced. Raises
ConfigError for what cannot be used, before anything long begins where that can be known.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from app.errors import ConfigError
from app.evaluate_cli import rule_of
from models.card import save
from models.evaluate import CAVEAT
from models.fit import Family, chosen_params
from models.handbook import World
from models.labelled import (
    HANDBOOK,
    WARM_UP_DAYS,
    Labelled,
    Split,
    of_file,
    of_world,
    split_file,
    split_world,
)
from models.manifest import Artefact, Manifest, read
from models.threshold import Rule
from models.train import DEFAULT_RULE, SECOND, Renewed, renew, train

OTHER_WORLD, WORLDS = 10_007, 40_000
"""The second world, which takes no part in a training, is so many seeds away."""
SHOWN = (
    "auc", "average_precision", "oracle_average_precision", "card_precision", "alerts_per_day",
    "review_precision", "review_recall", "decline_precision", "decline_recall",
)  # fmt: skip

Say = Callable[[str], None]


class History(NamedTuple):
    """A user's own labelled payments, and how many of the last days are held out."""

    path: Path
    holdout_days: int


def run_train(
    family: Family,
    payments: World | History,
    seed: int,
    out: Path,
    params: Path | None,
    rule: Rule = DEFAULT_RULE,
    *,
    as_json: bool,
) -> None:
    """Train a family, write it with manifest and card, print its figures."""
    check_directory(out)
    chosen, say = read_params(params, family) if params is not None else {}, sayer()
    other: Labelled | None = None
    if isinstance(payments, World):
        say(f"simulating world {payments.seed}")
        data, split = of_world(payments), split_world()
        say("simulating another world to test on")
        other = of_world(replace(payments, seed=(payments.seed + OTHER_WORLD) % WORLDS))
    else:
        data = read_file(payments, say)
        split = split_file(data, payments.holdout_days)
    options = {"family": family, "data": name_of(payments), "seed": seed,
               "params": params and params.name}  # fmt: skip
    command = command_line("train", options)
    artefact = train(family, data, split, seed, chosen, rule, other, command, say)
    save(out, artefact)
    if as_json:
        print_json({**_told(artefact), "path": str(out)})
        return
    console = Console(highlight=False)
    console.print(_figures(artefact.manifest))
    if artefact.manifest.training["data"] == HANDBOOK:
        console.print(CAVEAT)
    _tell_path(console, artefact, out)


def run_finetune(
    model: Path,
    history: History | None,
    seed: int | None,
    days_later: int,
    out: Path | None,
    rule: Rule | None,
    *,
    force: bool,
    as_json: bool,
) -> int:
    """Go on from a model with later days; the exit status: 1 if it got worse and is not written.

    None for `out` is beside the model; None for `rule` picks thresholds by the rule of the model's.
    """
    base, say = read(model), sayer()
    path = out or model.resolve().with_name(f"{model.resolve().name}-finetuned")
    check_directory(path)
    if history is None:
        data, split = _later_days(base.manifest, seed, days_later, say)
    else:
        data = read_file(history, say)
        split = split_file(data, history.holdout_days, _first_new(base.manifest, data))
    options = {"": model.name, "data": name_of(history), "seed": seed,
               "days-later": None if history else days_later}  # fmt: skip
    command = command_line("finetune", options)
    found = renew(
        base, data, split, seed or 0,
        rule=rule or rule_as_asked(base.manifest), command=command, say=say,
    )  # fmt: skip
    worse = found.new_ap < found.old_ap
    written = not worse or force
    if written:
        save(path, found.artefact)
    if as_json:
        print_json(
            {**_told(found.artefact), "old_average_precision": found.old_ap,
             "new_average_precision": found.new_ap, "changed": found.changed, "written": written,
             "path": str(path) if written else None}
        )  # fmt: skip
    else:
        _show_renewed(base.manifest, found, path, split, written=written)
    return 0 if written else 1


def read_params(path: Path, family: Family) -> dict[str, float]:
    """Parameters from a file that `tune` wrote, or of plain names and values.

    Raises ConfigError that names the file: unreadable, another family's, or unknown names.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
    params = content.get("params", content) if isinstance(content, dict) else None
    if not isinstance(params, dict) or not all(_is_number(value) for value in params.values()):
        raise ConfigError(f"{path} holds no object of parameters and their numbers")
    if content.get("family", family) != family:
        raise ConfigError(f"{path} has parameters of {content['family']}, not of {family}")
    try:
        return chosen_params(family, params)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def rule_as_asked(manifest: Manifest) -> Rule:
    """The rule by which a model's thresholds were picked, as far as its manifest tells."""
    name, _, value = str(manifest.expected.get("asked", "")).partition(" ")
    match name:
        case "alerts-per-day":
            return rule_of(float(value), None, None)
        case "cost":
            return rule_of(None, value, None)
        case "tra-limit":
            return rule_of(None, None, float(value))
    return DEFAULT_RULE


def _later_days(
    manifest: Manifest, seed: int | None, days: int, say: Say
) -> tuple[Labelled, Split]:
    """The days of the model's world that follow those it learnt from."""
    training = manifest.training
    if training.get("data") != HANDBOOK:
        raise ConfigError(f"{manifest.model_id} was trained on a file: give a newer one by --data")
    split = split_world(int(training["stop_day"]) + days, days)
    asked = int(training["seed"]) if seed is None else seed
    world = World(
        asked, int(training["customers"]), int(training["terminals"]),
        max(int(training["days"]), split.test.stop + 1), radius=float(training["radius"]),
    )  # fmt: skip
    say(f"simulating world {world.seed}")
    return of_world(world), split


def _first_new(manifest: Manifest, data: Labelled) -> int:
    """The first day of a file that the model has not learnt from."""
    stop = manifest.training.get("stop_date")
    if manifest.training.get("data") == HANDBOOK or stop is None:
        return WARM_UP_DAYS
    known = date.fromisoformat(str(stop)) - date.fromisoformat(data.date(0))
    return max(WARM_UP_DAYS, known.days)


def name_of(payments: World | History | None) -> str | None:
    """A file's name; a world has none."""
    return payments.path.name if isinstance(payments, History) else None


def read_file(history: History, say: Say) -> Labelled:
    """A file's payments with their vectors."""
    say(f"reading {history.path}")
    return of_file(history.path)


def check_directory(path: Path) -> None:
    """Raise ConfigError unless there is such a directory or one can be made."""
    at = path.resolve()
    while not at.exists():
        at = at.parent
    if not at.is_dir() or not os.access(at, os.W_OK):
        raise ConfigError(f"cannot write into {path}: {at} is no directory that can be written")


def sayer() -> Say:
    """Progress in words, on standard error."""
    console = Console(stderr=True, highlight=False)
    return lambda text: console.print(f"{text} …", markup=False)


def command_line(name: str, options: Mapping[str, object]) -> str:
    """A command as it was given; options that are None are left out, the first may have no name."""
    told = [
        f"--{option} {value}" if option else str(value)
        for option, value in options.items()
        if value is not None
    ]
    return " ".join(["riskwire", name, *told])


def print_json(content: object) -> None:
    """One JSON object on standard output."""
    print(json.dumps(content))  # noqa: T201 -- this is the product


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _told(artefact: Artefact) -> dict[str, Any]:
    """What a script wants to know of a new model."""
    manifest = artefact.manifest
    return {
        "model_id": manifest.model_id,
        "family": manifest.family,
        "thresholds": manifest.thresholds.model_dump(),
        "expected": manifest.expected,
        "metrics": manifest.metrics,
        "training": manifest.training,
        "model_bytes": len(artefact.model),
        "explainer_bytes": len(artefact.explainer),
    }


def _figures(manifest: Manifest) -> Table:
    metrics = manifest.metrics
    second = any(name.startswith(SECOND) for name in metrics)
    table = Table(title=manifest.model_id)
    for k, head in enumerate(("", "days held out", *(["second world"] if second else []))):
        table.add_column(head, justify="right" if k else "left")
    for name in SHOWN:
        if name in metrics:
            names = [name, *([SECOND + name] if second else [])]
            table.add_row(name.replace("_", " "), *(f"{metrics[one]:,.3f}" for one in names))
    return table


def _show_renewed(
    was: Manifest, found: Renewed, path: Path, split: Split, *, written: bool
) -> None:
    console = Console(highlight=False)
    days = f"days {split.test.start} to {split.test.stop}"
    table = Table(title=f"Held out: {days}")
    table.add_column("model")
    table.add_column("average precision", justify="right")
    table.add_row(was.model_id, f"{found.old_ap:.4f}")
    table.add_row(found.artefact.manifest.model_id, f"{found.new_ap:.4f}")
    console.print(table)
    if not found.changed:
        console.print("The recent payments brought no gain: the model is the same, its thresholds"
                      " are picked anew.")  # fmt: skip
    if written:
        _tell_path(console, found.artefact, path)
    else:
        Console(stderr=True, style="bold red", highlight=False).print(
            f"worse on the held-out days: not written. --force writes it to {path} all the same",
            markup=False,
            soft_wrap=True,
        )


def _tell_path(console: Console, artefact: Artefact, path: Path) -> None:
    limits = artefact.manifest.thresholds
    console.print(f"REVIEW from {limits.review:.6f} on, DECLINE from {limits.decline:.6f} on")
    console.print(f"written to {path}; serve it with RISKWIRE_MODEL={path}", soft_wrap=True,
                  markup=False)  # fmt: skip
