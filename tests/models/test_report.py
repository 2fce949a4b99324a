"""The evaluation of a small world, its page, its scores and its command line."""

import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from app import evaluate_cli
from app.errors import ConfigError, ModelError
from features.contract import NAMES
from models import evaluate, metrics, report
from models.evaluate import BOOK, CEILING, ORACLE, Data, Evaluation, judge
from models.fit import fit
from models.handbook import World
from models.manifest import Artefact, Golden, Manifest, Thresholds, read, write
from models.mistakes import mistakes
from models.protocol import FOLDS, between
from models.threshold import ByAlerts, ByCost, ByTra, Costs

WORLD = World(1, customers=300, terminals=500, days=157, radius=10.0)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """A family on a small world."""
    return evaluate.evaluate(WORLD, ["lightgbm"], ByAlerts(8), {"lightgbm": {"max_bin": 255}})


@pytest.fixture(scope="module")
def data(evaluation: Evaluation) -> Data:
    """Its payments."""
    return evaluation.data


class Links(HTMLParser):
    """Collects what a page would fetch, and whether its tags match."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note references that leave the page, and elements that fetch or run."""
        if tag in {"script", "link", "img", "iframe", "object", "embed"}:
            self.fetched.append(tag)
        for name, value in attrs:
            outside = name in {"href", "src", "xlink:href"} and not (value or "").startswith("#")
            if outside or (name == "style" and re.search(r"url\((?!#)", value or "")):
                self.fetched.append(f"{tag} {name}={value}")
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element without content."""
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Every end has its start."""
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_measures_are_those_of_the_scores(evaluation: Evaluation) -> None:
    """Every fold's figures can be computed again from what is kept."""
    data = evaluation.data
    assert set(evaluation.skills) == {"lightgbm", BOOK, ORACLE, CEILING}
    for name, skills in evaluation.skills.items():
        for rows, scores, skill in zip(data.rows, evaluation.scores[name], skills, strict=True):
            columns = data.day[rows], data.payments.customer[rows], data.payments.fraud[rows]
            assert metrics.skill(*columns, scores) == skill


def test_a_family_beats_the_books_recipe_and_not_the_oracle(evaluation: Evaluation) -> None:
    """On the mean of average precision; so nothing is suspected."""
    means = {name: skill.average_precision for name, skill in evaluation.means.items()}
    assert means[BOOK] < means["lightgbm"] < means[ORACLE]
    assert evaluation.leaking == ()


def test_the_truth_as_scores_is_suspected_leakage(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who knows the labels is above the oracle, and the exit status says so."""
    known = judge(data, {"cheat": evaluate.judged(data, data.payments.fraud * 1.0)}, ("cheat",))
    assert known.leaking == ("cheat",)
    assert evaluate_cli.publish(known, Costs(), as_json=False) == 1
    assert "suspected leakage" in capsys.readouterr().err
    assert "Suspected leakage" in report.page(known, Costs())


def test_thresholds_come_from_the_week_whose_labels_are_known(evaluation: Evaluation) -> None:
    """Expected is the budget; folds 0 and 1 are picked on the test weeks of folds 2 and 3."""
    data, thresholds = evaluation.data, evaluation.thresholds
    assert [one.fold for one in thresholds] == [fold.number for fold in FOLDS]
    for late, early in ((0, 2), (1, 3)):
        alerts = (evaluation.scores["lightgbm"][early] >= np.float32(thresholds[late].review)).sum()
        assert alerts / 7 == thresholds[late].expected["alerts_per_day"] <= 8
    for one, scores in zip(thresholds, evaluation.scores["lightgbm"], strict=True):
        assert one.realised["alerts_per_day"] == (scores >= np.float32(one.review)).sum() / 7
    assert len(evaluate.alerted(evaluation)) == len(data.together)


def test_scores_can_be_measured_again_from_the_file(evaluation: Evaluation, tmp_path: Path) -> None:
    """The file has every judged payment once, named by its place in the world."""
    path = tmp_path / "scores.parquet"
    evaluate.write_scores(evaluation, path)
    table = parquet.read_table(path)
    assert table.column_names == ["fold", "transaction_id", "score"]
    assert str(table.schema.field("transaction_id").type) == "string"
    fold, score = table["fold"].to_numpy(), table["score"].to_numpy()
    rows = np.array([int(text) for text in table["transaction_id"].to_pylist()])
    data = evaluation.data
    for k, skill in enumerate(evaluation.skills["lightgbm"]):
        mine = rows[fold == k]
        columns = data.day[mine], data.payments.customer[mine], data.payments.fraud[mine]
        assert metrics.skill(*columns, score[fold == k]) == skill


def test_scores_from_elsewhere_are_measured_alike(evaluation: Evaluation, data: Data) -> None:
    """The seam of the replay: scores of all payments, cut into the folds."""
    everything = np.zeros(len(data.payments), np.float32)
    for rows, scores in zip(data.rows, evaluation.scores["lightgbm"], strict=True):
        everything[rows] = scores
    again = judge(data, {"stream": evaluate.judged(data, everything)}, ("stream",))
    assert again.skills["stream"] == evaluation.skills["lightgbm"]
    assert again.recalls["stream"] == evaluation.recalls["lightgbm"]


def test_the_page_fetches_nothing(evaluation: Evaluation) -> None:
    """No address, no script, all tags closed, and every picture inside."""
    page, links = report.page(evaluation, Costs()), Links()
    links.feed(page)
    assert links.fetched == []
    assert (links.wrong, links.open) == ([], [])
    assert set(re.findall(r'https?://[^"\s<)]*', page)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert page.count("<svg ") == 5


def test_the_pages_colours_are_its_own(evaluation: Evaluation) -> None:
    """No place-holder is left, and every variable has a value in light and in dark."""
    page = report.page(evaluation, Costs())
    assert not re.findall(r"#0[1-9a-f]0[1-9a-f]0[1-9a-f]", page)
    for name in set(re.findall(r"var\(--([a-z]+)\)", page)):
        assert page.count(f"--{name}: #") == 2


def test_the_page_says_what_it_must(evaluation: Evaluation) -> None:
    """Its figures, the caveat, and the mistakes."""
    page = report.page(evaluation, Costs())
    assert "chosen knowing the simulator" in page
    assert f"{evaluation.means['lightgbm'].average_precision:.3f}" in page
    assert f"{mistakes(evaluation).everything.missed:,} of" in page


def test_the_page_is_the_same_for_the_same_figures(evaluation: Evaluation) -> None:
    """No date, no random identifier."""
    assert report.page(evaluation, Costs()) == report.page(evaluation, Costs())


def test_names_are_escaped(evaluation: Evaluation) -> None:
    """A model's name cannot write into the page."""
    scores = {"<b>": evaluation.scores["lightgbm"]}
    page = report.page(judge(evaluation.data, scores, ("<b>",)), Costs())
    assert "&lt;b&gt;" in page
    assert "<h1><b>" not in page


def test_mistakes_are_all_mistakes(evaluation: Evaluation) -> None:
    """Each split and each list of kinds adds up to everything."""
    found, stops = mistakes(evaluation), evaluate.alerted(evaluation)
    fraud = evaluation.data.payments.fraud[evaluation.data.together] == 1
    assert found.everything.missed == (fraud & ~stops).sum()
    assert found.everything.stopped == (~fraud & stops).sum()
    for groups in found.by.values():
        assert sum(one.missed for one in groups) == found.everything.missed
        assert sum(one.honest for one in groups) == found.everything.honest
    assert sum(one.frauds for one in found.missed) == found.everything.frauds
    assert sum(one.stopped for one in found.stopped) == found.everything.stopped


@pytest.fixture(scope="module")
def shipped(data: Data) -> Artefact:
    """A model that learnt from fold 0 of the small world."""
    rows = between(data.day, FOLDS[0].train)
    matrix = data.matrix[rows]
    made = fit("logistic", matrix, data.payments.fraud[rows], 0, {"bins": 8, "epochs": 2})
    manifest = Manifest(
        name="small",
        version="1.0.0",
        sha256=hashlib.sha256(made.onnx).hexdigest(),
        explainer_sha256=hashlib.sha256(b"").hexdigest(),
        feature_contract_id="0",
        lateness_s=30,
        skew_s=60,
        features=NAMES,
        thresholds=Thresholds(review=0.05, decline=0.5),
        reference=tuple(matrix[0].tolist()),
        golden=Golden(vectors=(tuple(matrix[0].tolist()),), scores=(0.0,)),
        metrics={},
        training={
            "data": "handbook",
            "seed": WORLD.seed,
            "customers": WORLD.customers,
            "terminals": WORLD.terminals,
            "days": WORLD.days,
            "stop_day": FOLDS[0].train.stop,
        },
    )
    return Artefact(manifest, made.onnx, b"")


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch, evaluation: Evaluation) -> None:
    """What was computed once need not be again."""
    monkeypatch.setattr(evaluate, "prepare", lambda *_: evaluation.data)
    monkeypatch.setattr(evaluate, "_book", lambda _: evaluation.scores[BOOK])


@pytest.fixture
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few terminals lie so far apart that a customer needs a longer way to them."""
    monkeypatch.setattr(
        evaluate_cli,
        "World",
        lambda *sizes: dataclasses.replace(World(*sizes), radius=WORLD.radius),
    )


@pytest.mark.usefixtures("_no_waiting")
def test_a_shipped_model_is_judged_as_it_is(shipped: Artefact) -> None:
    """With its own thresholds, and a warning for the weeks that its training days reach into."""
    found = evaluate.evaluate(WORLD, [shipped])
    assert found.chosen == shipped.manifest.model_id
    assert found.seen == (1, 2, 3)
    assert {one.review for one in found.thresholds} == {0.05}
    assert found.means[found.chosen].auc > 0.6
    elsewhere = dataclasses.replace(WORLD, seed=WORLD.seed + 1)
    assert evaluate.learnt(elsewhere, shipped.manifest) == ()


@pytest.mark.usefixtures("_no_waiting")
def test_a_model_of_other_features_is_refused(shipped: Artefact) -> None:
    """It would read one thing for another."""
    names = (*NAMES[1:], NAMES[0])
    other = shipped._replace(manifest=shipped.manifest.model_copy(update={"features": names}))
    with pytest.raises(ModelError, match="other features"):
        evaluate.evaluate(WORLD, [other])


@pytest.mark.usefixtures("_no_waiting", "_wide")
def test_thresholds_are_written_into_the_manifest(shipped: Artefact, tmp_path: Path) -> None:
    """Picked on the week after the training days and the label delay, with what to expect."""
    write(tmp_path, shipped)
    evaluate_cli.set_thresholds(tmp_path, ByAlerts(5), None, None, as_json=True)
    changed = read(tmp_path)
    assert changed.manifest.thresholds != shipped.manifest.thresholds
    assert changed.manifest.golden == shipped.manifest.golden
    on_fold_0 = evaluate.evaluate(WORLD, [changed]).thresholds[0]
    assert on_fold_0.asked == "alerts-per-day 5"
    assert 0 < on_fold_0.expected["alerts_per_day"] <= 5
    assert on_fold_0.realised == pytest.approx(on_fold_0.expected)


@pytest.mark.usefixtures("_wide")
def test_no_thresholds_where_everything_was_learnt(shipped: Artefact, tmp_path: Path) -> None:
    """There must be a week left to validate on."""
    training = {**shipped.manifest.training, "stop_day": WORLD.days - 13}
    manifest = shipped.manifest.model_copy(update={"training": training})
    write(tmp_path, shipped._replace(manifest=manifest))
    with pytest.raises(ConfigError, match="no labelled payments"):
        evaluate_cli.set_thresholds(tmp_path, ByAlerts(5), None, None, as_json=True)


def test_a_model_of_another_history_needs_one(shipped: Artefact, tmp_path: Path) -> None:
    """Nothing says which payments it has not seen."""
    manifest = shipped.manifest.model_copy(update={"training": {"data": "file"}})
    write(tmp_path, shipped._replace(manifest=manifest))
    with pytest.raises(ConfigError, match="--history"):
        evaluate_cli.set_thresholds(tmp_path, ByAlerts(5), None, None, as_json=True)


def test_a_world_that_ends_too_early_is_refused() -> None:
    """With what is needed."""
    with pytest.raises(ConfigError, match="157 days"):
        evaluate.prepare(dataclasses.replace(WORLD, days=156))


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch, evaluation: Evaluation) -> None:
    """The command line without the long way to an evaluation."""
    monkeypatch.setattr(evaluate_cli, "evaluate", lambda *_, **__: evaluation)


@pytest.mark.usefixtures("_small")
def test_the_command_writes_what_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON alone on standard output, and both files."""
    files = tmp_path / "scores.parquet", tmp_path / "report.html"
    status = evaluate_cli.run(
        "handbook", 1, ["lightgbm"], ByAlerts(8), as_json=True, scores=files[0], report=files[1]
    )
    found = json.loads(capsys.readouterr().out)
    assert status == 0
    assert all(path.stat().st_size for path in files)
    assert found["chosen"] == "lightgbm"
    assert set(found["results"]) == {"lightgbm", BOOK, ORACLE, CEILING}
    assert found["folds"][3]["test_days"] == [129, 136]
    assert "simulator" in found["note"]


@pytest.mark.usefixtures("_small")
def test_the_command_shows_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """The measures beside the oracle's, and asked against realised."""
    evaluate_cli.run("handbook", 1, [], ByAlerts(8), as_json=False, scores=None, report=None)
    out = capsys.readouterr().out
    for text in ("lightgbm", "book's recipe", "oracle", "alerts-per-day 8", "→"):
        assert text in out


@pytest.mark.parametrize(
    ("protocol", "models", "folder", "message"),
    [("other", [], ".", "protocol"), ("handbook", ["nothing"], ".", "neither"),
     ("handbook", [], "/nowhere", "no directory")],
)  # fmt: skip
def test_wrong_arguments_are_refused_at_once(
    protocol: str, models: list[str], folder: str, message: str
) -> None:
    """Before anything is simulated."""
    path = Path(folder) / "report.html"
    with pytest.raises(ConfigError, match=message):
        evaluate_cli.run(protocol, 0, models, ByAlerts(1), as_json=False, scores=None, report=path)


def test_options_make_a_rule() -> None:
    """The budget, the cost, the rate; a hundred alerts if nothing is said."""
    assert evaluate_cli.rule_of(None, None, None) == ByAlerts(100)
    assert evaluate_cli.rule_of(50, "review=1", None) == ByAlerts(50, Costs(review=1))
    assert evaluate_cli.rule_of(None, "review=1", None) == ByCost(Costs(review=1))
    assert evaluate_cli.rule_of(None, None, 0.13) == ByTra(0.13)
    with pytest.raises(ConfigError, match="either"):
        evaluate_cli.rule_of(50, None, 0.13)
