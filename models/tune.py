"""The search for a family's parameters: optuna's TPE on average precision over prequential folds.

`tune` takes folds of plain matrices and a budget in trials, in minutes, or both, and gives the best
parameters with the table of all trials. The first trial is the family's defaults, so that the best
is never worse. With a journal file the search is resumable: trial k draws from the seed and k
alone, so an interrupted search ends as one in a single run. `SPACE` is what is searched. Reads the
clock for the budget, writes the journal; ModelError for a journal of other folds. Needs the `train`
extra.
"""

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sklearn.metrics import average_precision_score

from app.errors import ModelError
from models.fit import DEFAULTS, Family, Scores, fit

Float32s = NDArray[np.float32]
Int8s = NDArray[np.int8]

Fold = tuple[Float32s, Int8s, Float32s, Int8s]
"""Rows to learn from with their truth, and later rows to validate on with theirs."""


@dataclass(frozen=True, slots=True)
class Range:
    """Values of a parameter; whole numbers if `whole`, evenly in the logarithm if `log`."""

    low: float
    high: float
    whole: bool = False
    log: bool = False


SPACE: dict[Family, dict[str, Range]] = {
    "logistic": {
        "bins": Range(4, 64, whole=True, log=True),
        "epochs": Range(4, 20, whole=True),
        "rate": Range(1e-3, 5e-2, log=True),
        "decay": Range(1e-2, 2, log=True),
    },
    "mlp": {
        "bins": Range(8, 64, whole=True, log=True),
        "hidden_1": Range(16, 128, whole=True, log=True),
        "hidden_2": Range(8, 64, whole=True, log=True),
        "epochs": Range(5, 40, whole=True),
        "rate": Range(5e-4, 5e-3, log=True),
        "decay": Range(0.1, 3, log=True),
    },
    "lightgbm": {
        "rounds": Range(50, 500, whole=True, log=True),
        "learning_rate": Range(0.02, 0.3, log=True),
        "num_leaves": Range(4, 24, whole=True, log=True),
        "max_depth": Range(2, 6, whole=True),
        "max_bin": Range(1023, 65535, whole=True, log=True),
        "min_data_in_leaf": Range(1, 50, whole=True, log=True),
        "min_sum_hessian_in_leaf": Range(1e-3, 10, log=True),
        "lambda_l2": Range(1e-2, 30, log=True),
        "feature_fraction": Range(0.4, 1),
        "bagging_fraction": Range(0.5, 1),
    },
    "xgboost": {
        "rounds": Range(50, 500, whole=True, log=True),
        "learning_rate": Range(0.02, 0.3, log=True),
        "max_depth": Range(2, 6, whole=True),
        "min_child_weight": Range(0.1, 20, log=True),
        "reg_lambda": Range(1e-2, 30, log=True),
        "subsample": Range(0.5, 1),
        "colsample_bytree": Range(0.4, 1),
    },
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One try: its parameters, the average precision on each fold and their mean, its time."""

    number: int
    params: dict[str, float]
    folds: tuple[float, ...]
    value: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Best:
    """The parameters to fit with, their mean average precision, and every trial in order."""

    params: dict[str, float]
    value: float
    trials: tuple[Trial, ...]


def tune(
    family: Family,
    folds: Sequence[Fold],
    seed: int,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    storage: Path | None = None,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> Best:
    """Search until there are `trials` in all, those in `storage` included, or for `minutes`.

    At least one trial is made. `on_trial` is told each one as it ends. Raises ValueError without
    a budget, ModelError where `storage` holds a search over other folds.
    """
    if trials is None and minutes is None:
        msg = "a search needs a budget: trials, minutes, or both"
        raise ValueError(msg)
    study = _study(family, folds, seed, storage)
    stop = time.monotonic() + 60 * (np.inf if minutes is None else minutes)
    done = _table(study)
    while not done or (len(done) < (trials or np.inf) and time.monotonic() < stop):
        _try(study, family, folds, seed, len(done))
        done = _table(study)
        on_trial(done[-1])
    best = max(done, key=lambda trial: trial.value)
    return Best(best.params, best.value, tuple(done))


def _study(
    family: Family, folds: Sequence[Fold], seed: int, storage: Path | None
) -> optuna.study.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = None if storage is None else JournalStorage(JournalFileBackend(str(storage)))
    study = optuna.create_study(
        storage=journal,
        study_name=f"{family}-{seed}",
        direction="maximize",
        load_if_exists=True,
    )
    # SPACE and the defaults decide the trials as the rows do.
    told = repr((SPACE[family], DEFAULTS[family])).encode()
    content = zlib.crc32(told)
    for array in (array for fold in folds for array in fold):
        content = zlib.crc32(np.ascontiguousarray(array).data, content)
    if study.user_attrs.setdefault("content", content) != content:
        msg = f"{storage} holds a search over other rows or parameters: name another file"
        raise ModelError(msg)
    study.set_user_attr("content", content)
    return study


def _try(
    study: optuna.study.Study, family: Family, folds: Sequence[Fold], seed: int, number: int
) -> None:
    """Make the trial of this number; one that was broken off before is not counted."""
    began = time.monotonic()
    study.sampler = optuna.samplers.TPESampler(
        seed=int(np.random.default_rng((seed, number)).integers(2**31)), multivariate=False
    )
    if number == 0:
        study.enqueue_trial({name: DEFAULTS[family][name] for name in SPACE[family]})
    trial = study.ask()
    params = {name: _suggest(trial, name, values) for name, values in SPACE[family].items()}
    found = [_average_precision(family, fold, seed, params) for fold in folds]
    trial.set_user_attr("folds", found)
    trial.set_user_attr("seconds", time.monotonic() - began)
    study.tell(trial, float(np.mean(found)))


def _suggest(trial: Any, name: str, values: Range) -> float:
    if values.whole:
        return int(trial.suggest_int(name, int(values.low), int(values.high), log=values.log))
    return float(trial.suggest_float(name, values.low, values.high, log=values.log))


def _average_precision(family: Family, fold: Fold, seed: int, params: dict[str, float]) -> float:
    matrix, fraud, later, truth = fold
    fitted = fit(family, matrix, fraud, seed, params)
    return float(average_precision_score(truth, Scores(fitted.onnx)(later)))


def _table(study: optuna.study.Study) -> list[Trial]:
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    return [
        Trial(number, t.params, tuple(t.user_attrs["folds"]), t.values[0], t.user_attrs["seconds"])
        for number, t in enumerate(complete)
    ]
