"""Training at a small size: repeatable to the byte, checked, described, and gone on from."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.adapters.onnx import CPU, load_scorer
from app.errors import ConfigError, ModelError
from features.contract import LIVE, NAMES, contract_id
from models.card import CARD_FILE, card, save
from models.evaluate import learnt
from models.fit import FAMILIES, Family, Scores
from models.handbook import World
from models.labelled import FILE, Labelled, Split, of_world, split_world
from models.manifest import Artefact, read
from models.threshold import ByAlerts, ByCost, Costs
from models.train import SECOND, VERSION, check_batches, golden, renew, train

WORLD = World(1, customers=300, terminals=3000, days=185, radius=6.0)
RULE = ByAlerts(8)
FEW: dict[Family, dict[str, float]] = {
    "logistic": {"bins": 8, "epochs": 2},
    "mlp": {"bins": 8, "epochs": 2, "hidden_1": 16, "hidden_2": 8},
    "lightgbm": {"rounds": 20, "max_bin": 255},
    "xgboost": {"rounds": 20},
}


@pytest.fixture(scope="module")
def data() -> Labelled:
    """A small world's payments."""
    return of_world(WORLD)


@pytest.fixture(scope="module")
def other() -> Labelled:
    """Those of another world."""
    return of_world(dataclasses.replace(WORLD, seed=2))


@pytest.fixture(scope="module")
def trained(data: Labelled, other: Labelled) -> Artefact:
    """A small model."""
    return train("lightgbm", data, split_world(), 5, FEW["lightgbm"], RULE, other, "riskwire train")


def test_the_same_gives_the_same_bytes(data: Labelled, other: Labelled, trained: Artefact) -> None:
    """Training again gives the same model, explainer and manifest."""
    again = train(
        "lightgbm", data, split_world(), 5, FEW["lightgbm"], RULE, other, "riskwire train"
    )
    assert again == trained


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_served(family: Family, data: Labelled, tmp_path: Path) -> None:
    """What is written loads, scores and explains its golden vectors, and has a card."""
    made = train(family, data, split_world(), 0, FEW[family], RULE)
    save(tmp_path, made)
    scorer = load_scorer(tmp_path, CPU)
    assert scorer.manifest == made.manifest
    assert scorer.timing == LIVE
    assert made.manifest.family == family
    assert made.manifest.metrics["auc"] > 0.65
    assert (tmp_path / CARD_FILE).read_text("utf-8") == card(made.manifest)


def test_the_manifest_says_how_it_was_made(data: Labelled, trained: Artefact) -> None:
    """Contract, data, days, versions and parameters are in it."""
    manifest, training = trained.manifest, trained.manifest.training
    assert (manifest.name, manifest.version) == ("riskwire-lightgbm", VERSION)
    assert (manifest.lateness_s, manifest.skew_s) == (30, 60)
    assert (manifest.feature_contract_id, manifest.features) == (contract_id(LIVE), NAMES)
    rows = data.rows(split_world().train)
    expected = {
        "command": "riskwire train", "data": "handbook", "seed": WORLD.seed, "start_day": 115,
        "stop_day": 143, "start_date": "2018-07-25", "stop_date": "2018-08-22",
        "rows": len(rows), "frauds": int(data.fraud[rows].sum()),
    }  # fmt: skip
    assert expected.items() <= training.items()
    assert FEW["lightgbm"].items() <= json.loads(str(training["params"])).items()
    assert "lightgbm 4" in str(training["libraries"])
    assert manifest.reference == tuple(np.median(data.matrix[rows], axis=0).tolist())
    assert learnt(WORLD, manifest) == (1, 2, 3)


def test_thresholds_keep_their_budget_and_are_tested_later(trained: Artefact) -> None:
    """What is promised is of the validation week; what is measured of the test week after it."""
    expected, metrics = trained.manifest.expected, trained.manifest.metrics
    assert expected["asked"] == "alerts-per-day 8"
    assert 0 < float(expected["alerts_per_day"]) <= 8
    assert metrics["alerts_per_day"] != expected["alerts_per_day"]
    assert metrics["average_precision"] < metrics["oracle_average_precision"]
    assert metrics[SECOND + "auc"] > 0.65


def test_another_rule_gives_other_thresholds(data: Labelled, trained: Artefact) -> None:
    """The same bytes of a model, decided with otherwise."""
    rule = ByCost(Costs(review=1.0))
    found = train("lightgbm", data, split_world(), 5, FEW["lightgbm"], rule)
    assert found.model == trained.model
    assert found.manifest.thresholds != trained.manifest.thresholds
    assert found.manifest.expected["asked"] == "cost review=1,decline=25"


def test_some_golden_vectors_score_high() -> None:
    """Frauds are rare: steps down the ranks grow, so that several are from the top."""
    scores: NDArray[np.float32] = np.linspace(0, 1, 5000, dtype=np.float32)
    matrix = np.repeat(scores[:, np.newaxis], 2, axis=1)
    found = golden(matrix, scores)
    assert (found.scores[0], found.scores[-1]) == (1.0, 0.0)
    assert found.vectors[3] == (found.scores[3], found.scores[3])
    assert sum(score > 0.99 for score in found.scores) >= 4
    assert golden(matrix[:1], scores[:1]).scores == (0.0,)


def test_scores_that_depend_on_their_batch_are_refused() -> None:
    """One bit in one batch size is enough."""
    matrix = np.random.default_rng(0).random((50, 3), np.float32)

    def scores(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = rows.sum(axis=1)
        return np.nextafter(found, np.float32(9)) if len(rows) == 37 else found

    check_batches(lambda rows: rows.sum(axis=1), matrix)
    with pytest.raises(ModelError, match="a batch of 37"):
        check_batches(scores, matrix)


def test_days_without_frauds_are_refused(data: Labelled) -> None:
    """Before anything is fitted."""
    split = Split(range(115, 115), range(150, 157), range(164, 171))
    with pytest.raises(ConfigError, match="to learn from: frauds and others"):
        train("lightgbm", data, split, 0)


@pytest.mark.parametrize("family", ["lightgbm", "logistic"])
def test_a_model_goes_on(family: Family, data: Labelled, tmp_path: Path) -> None:
    """With later days: a version on, its base named, thresholds of a later week, and servable."""
    base = train(family, data, split_world(), 0, FEW[family], RULE)
    found = renew(base, data, split_world(150, 7), 0, rule=RULE)
    manifest = found.artefact.manifest
    assert manifest.version == "2.0.1"
    assert manifest.training["base"] == base.manifest.model_id
    assert (manifest.training["start_day"], manifest.training["stop_day"]) == (143, 150)
    assert found.changed == (found.artefact.model != base.model)
    test = data.judged(range(171, 178))
    scores = Scores(found.artefact.model)(data.matrix[test])
    assert manifest.golden.scores[0] == scores.max()
    save(tmp_path, found.artefact)
    assert load_scorer(tmp_path, CPU).model_id == manifest.model_id
    assert base.manifest.model_id in (tmp_path / CARD_FILE).read_text("utf-8")


def test_a_model_of_other_features_does_not_go_on(data: Labelled, trained: Artefact) -> None:
    """It would read one thing for another."""
    manifest = trained.manifest.model_copy(update={"features": (*NAMES[1:], NAMES[0])})
    with pytest.raises(ModelError, match="other features"):
        renew(trained._replace(manifest=manifest), data, split_world(150, 7), 0)


def test_the_card_tells_what_the_manifest_tells(trained: Artefact) -> None:
    """Identity, provenance and figures; and that the features knew the simulator."""
    manifest = trained.manifest
    text = card(manifest)
    for shown in (
        manifest.model_id, manifest.sha256, manifest.feature_contract_id, "riskwire train",
        "chosen knowing the simulator's mechanisms", "World 1 of the Fraud Detection Handbook",
        "second world", f"{manifest.metrics['average_precision']:.4f}", "`alerts-per-day 8`",
    ):  # fmt: skip
        assert shown in text
    one_line = " ".join(text.split())
    assert "{" not in one_line.replace(str(manifest.training["params"]), "")


def test_the_card_of_own_data_names_it(trained: Artefact) -> None:
    """It claims nothing of a simulator's world."""
    source = {"data": FILE, "file": "payments.csv", "file_sha256": "ab" * 32}
    training = {**trained.manifest.training, **source}
    manifest = trained.manifest.model_copy(update={"training": training, "expected": {}})
    text = card(manifest)
    assert "`payments.csv`" in text
    assert "ab" * 32 in text
    assert "Trained on simulated" not in text


def test_the_directory_reads_back(trained: Artefact, tmp_path: Path) -> None:
    """All files, equal."""
    save(tmp_path / "deep" / "model", trained)
    assert read(tmp_path / "deep" / "model") == trained
