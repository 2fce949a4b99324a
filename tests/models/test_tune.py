"""The search: repeatable, resumable, never worse than the defaults."""

from pathlib import Path

import numpy as np
import pytest

from app.errors import ModelError
from models import tune as tuning
from models.fit import DEFAULTS, FAMILIES, Family, chosen_params
from models.tune import SPACE, Fold, Range, Trial, tune
from tests.models.frauds import rows

FOLDS: list[Fold] = [(*rows(k, 1500), *rows(k + 10, 1500)) for k in range(2)]


def alike(trials: tuple[Trial, ...]) -> list[tuple[dict[str, float], tuple[float, ...]]]:
    """What must repeat: not the seconds."""
    return [(trial.params, trial.folds) for trial in trials]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_space_is_the_familys_and_holds_its_defaults(family: Family) -> None:
    """Every range is of a known parameter, whole where that is, with the default within."""
    for name, values in SPACE[family].items():
        default = DEFAULTS[family][name]
        assert values.low <= default <= values.high
        assert values.whole == isinstance(default, int)


def test_a_search_that_was_broken_off_ends_as_if_it_were_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within its third trial and begun again, it makes the trials of a single run."""
    whole = tune("lightgbm", FOLDS, 5, trials=6)
    storage = tmp_path / "search.journal"

    def interrupt(trial: Trial) -> None:
        if trial.number == 1:
            monkeypatch.setattr(tuning, "fit", stop)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune("lightgbm", FOLDS, 5, trials=6, storage=storage, on_trial=interrupt)
    monkeypatch.undo()
    told: list[Trial] = []
    resumed = tune("lightgbm", FOLDS, 5, trials=6, storage=storage, on_trial=told.append)
    assert [trial.number for trial in told] == [2, 3, 4, 5]
    assert alike(resumed.trials) == alike(whole.trials)
    assert resumed.params == whole.params


def test_the_best_is_no_worse_than_the_defaults() -> None:
    """The first trial is the defaults; the best is the highest mean over the folds."""
    best = tune("logistic", FOLDS, 0, trials=3)
    assert chosen_params("logistic", best.trials[0].params) == DEFAULTS["logistic"]
    assert best.value == max(np.mean(trial.folds) for trial in best.trials)
    assert best.value >= best.trials[0].value


def test_minutes_end_a_search_after_one_trial_at_least() -> None:
    """A budget of no time still gives an answer; no budget at all is an error."""
    assert len(tune("lightgbm", FOLDS, 0, minutes=0).trials) == 1
    with pytest.raises(ValueError, match="budget"):
        tune("lightgbm", FOLDS, 0)


def test_a_journal_of_other_rows_or_another_space_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials that mean something else are not mixed in."""
    storage = tmp_path / "search.journal"
    tune("lightgbm", FOLDS, 0, trials=1, storage=storage)
    with pytest.raises(ModelError, match="other rows"):
        tune("lightgbm", FOLDS[:1], 0, trials=1, storage=storage)
    monkeypatch.setitem(SPACE, "lightgbm", {"rounds": Range(50, 500, whole=True)})
    with pytest.raises(ModelError, match="other rows"):
        tune("lightgbm", FOLDS, 0, trials=1, storage=storage)
