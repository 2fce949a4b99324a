"""`riskwire tune`: a family's parameters, searched on days that lie before every test.

In: a family, payments (a simulated world, or a labelled file) and a budget. Out: a file that
`riskwire train --params` reads, and a table or one JSON object on standard output; a progress bar
on standard error. Interrupted, it writes the best so far. Raises ConfigError for what cannot be
used.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.errors import ConfigError
from app.train_cli import (
    History,
    check_directory,
    command_line,
    name_of,
    print_json,
    read_file,
    sayer,
)
from models.fit import Family
from models.handbook import World
from models.labelled import TUNING_STOP, of_world, tuning_folds
from models.protocol import DELAY_DAYS
from models.tune import Best, Fold, Trial, tune

DEFAULT_TRIALS = 30
SHOWN_TRIALS = 5


def run(
    family: Family,
    payments: World | History,
    seed: int,
    out: Path,
    trials: int | None = None,
    minutes: float | None = None,
    study: Path | None = None,
    *,
    as_json: bool,
) -> None:
    """Search, write the best to `out` and print it; a search in `study` is gone on with."""
    for path in (out, *([study] if study else [])):
        check_directory(path.parent)
    folds = _folds(payments)
    if trials is None and minutes is None:
        trials = DEFAULT_TRIALS
    seen: list[Trial] = []
    try:
        with _bar(trials) as (progress, bar):

            def on_trial(trial: Trial) -> None:
                seen.append(trial)
                best = max(one.value for one in seen)
                progress.update(bar, completed=trial.number + 1, best=f"{best:.4f}")

            best = tune(family, folds, seed, trials=trials, minutes=minutes, storage=study,
                        on_trial=on_trial)  # fmt: skip
    except KeyboardInterrupt:
        if seen:
            top = max(seen, key=lambda one: one.value)
            best = Best(top.params, top.value, tuple(seen))
            _publish(family, payments, best, out, as_json=as_json)
        raise
    _publish(family, payments, best, out, as_json=as_json)


def _folds(payments: World | History) -> list[Fold]:
    say = sayer()
    if isinstance(payments, History):
        data = read_file(payments, say)
        stop = int(data.day[-1]) + 1 - payments.holdout_days - DELAY_DAYS
    else:
        say(f"simulating world {payments.seed}")
        data, stop = of_world(payments), TUNING_STOP
    return tuning_folds(data, stop, say)


@contextmanager
def _bar(trials: int | None) -> Iterator[tuple[Progress, TaskID]]:
    columns = (
        TextColumn("trials"), BarColumn(), TextColumn("{task.completed} of {task.fields[most]}"),
        TextColumn("best {task.fields[best]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        most = "as many as there is time for" if trials is None else str(trials)
        yield progress, progress.add_task("trials", total=trials, most=most, best="-")


def _publish(
    family: Family, payments: World | History, best: Best, out: Path, *, as_json: bool
) -> None:
    """Write the parameters, and print how they came about."""
    top = next(trial for trial in best.trials if trial.params == best.params)
    found = {
        "family": family,
        "params": best.params,
        "average_precision": best.value,
        "folds": top.folds,
        "trials": len(best.trials),
    }
    try:
        out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    if as_json:
        print_json({**found, "path": str(out)})
        return
    console = Console(highlight=False)
    console.print(_best_trials(best.trials))
    for name, value in best.params.items():
        console.print(f"  {name} {value:.6g}")
    options = {"family": family, "data": name_of(payments), "params": str(out)}
    console.print(f"written to {out}; {command_line('train', options)} uses them",
                  soft_wrap=True, markup=False)  # fmt: skip


def _best_trials(trials: Sequence[Trial]) -> Table:
    table = Table(title=f"Average precision, the best of {len(trials)} trials")
    table.add_column("trial", justify="right")
    for head in ("mean", *(f"fold {k}" for k in range(len(trials[0].folds))), "seconds"):
        table.add_column(head, justify="right")
    top = sorted(trials, key=lambda one: -one.value)[:SHOWN_TRIALS]
    defaults = [trials[0]] if trials[0].number == 0 and trials[0] not in top else []
    for trial in (*top, *defaults):
        name = f"{trial.number}{' (defaults)' if trial.number == 0 else ''}"
        figures = (f"{value:.4f}" for value in (trial.value, *trial.folds))
        table.add_row(name, *figures, f"{trial.seconds:.0f}")
    return table
