"""The way to a model on the command line, with small worlds: train, tune, fine-tune."""

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import cli, cli_models, evaluate_cli, replay, train_cli, tune_cli
from app.errors import ConfigError
from app.train_cli import History, read_params, rule_as_asked, run_finetune, run_train
from models import labelled
from models import tune as search
from models.card import CARD_FILE, save
from models.fit import DEFAULTS, FAMILIES
from models.handbook import World, simulate, write_parquet
from models.manifest import Artefact, read
from models.threshold import ByAlerts, ByCost, ByTra, Costs
from models.train import SECOND, Renewed
from models.tune import Range

WORLD = World(1, customers=200, terminals=2000, days=183, radius=8.0)
RULE = ByAlerts(6)
FEW = {"rounds": 10, "max_bin": 255}


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of parameters for a quick fit."""
    path = tmp_path_factory.mktemp("params") / "params.json"
    path.write_text(json.dumps({"family": "lightgbm", "params": FEW}))
    return path


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """A labelled file."""
    world = dataclasses.replace(WORLD, days=100)
    return History(write_parquet(simulate(world)[0], tmp_path_factory.mktemp("history")), 20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, params: Path) -> Path:
    """A model of the small world."""
    out = tmp_path_factory.mktemp("made") / "model"
    run_train("lightgbm", WORLD, 1, out, params, RULE, as_json=True)
    return out


@pytest.fixture(scope="module")
def own_model(tmp_path_factory: pytest.TempPathFactory, params: Path, history: History) -> Path:
    """A model of the file."""
    out = tmp_path_factory.mktemp("own") / "model"
    run_train("lightgbm", history, 1, out, params, RULE, as_json=True)
    return out


def test_train_writes_a_model_and_tells(
    params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The directory as it reads back, the figures of two worlds, and how to serve it."""
    run_train("lightgbm", WORLD, 1, tmp_path / "model", params, RULE, as_json=False)
    manifest = read(tmp_path / "model").manifest
    assert manifest.training["command"] == (
        "riskwire train --family lightgbm --seed 1 --params params.json"
    )
    assert any(name.startswith(SECOND) for name in manifest.metrics)
    captured = capsys.readouterr()
    for text in (manifest.model_id, "average precision", "second world", "RISKWIRE_MODEL="):
        assert text in captured.out
    assert "fitting lightgbm" in captured.err


def test_train_as_json(
    history: History, params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One object alone on standard output; own data is named, and has no second world."""
    run_train("lightgbm", history, 1, tmp_path / "model", params, RULE, as_json=True)
    found = json.loads(capsys.readouterr().out)
    manifest = read(tmp_path / "model").manifest
    assert found["model_id"] == manifest.model_id
    assert found["training"]["file"] == "transactions.parquet"
    assert (found["training"]["start_date"], found["training"]["stop_date"]) == (
        "2018-05-08", "2018-06-13",
    )  # fmt: skip
    assert not [name for name in found["metrics"] if name.startswith(SECOND)]
    assert "transactions.parquet" in (tmp_path / "model" / CARD_FILE).read_text("utf-8")


def test_a_file_in_the_way_is_found_at_once(tmp_path: Path) -> None:
    """Before anything is simulated."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write into"):
        run_train("lightgbm", World(), 0, tmp_path / "file" / "model", None, as_json=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "no object of parameters"),
        ('{"rounds": "many"}', "no object of parameters"),
        ('{"rounds": true}', "no object of parameters"),
        ('{"family": "xgboost", "params": {}}', "parameters of xgboost, not of lightgbm"),
        ('{"depth": 3}', r"params.json: lightgbm has no depth"),
    ],
)
def test_wrong_parameters_are_named(tmp_path: Path, content: str, message: str) -> None:
    """The file, and what is wrong with it."""
    path = tmp_path / "params.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_params(path, "lightgbm")


def test_parameters_are_read_in_both_forms(params: Path, tmp_path: Path) -> None:
    """As `tune` writes them, and plain; the others keep their defaults."""
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps(FEW))
    assert read_params(params, "lightgbm") == DEFAULTS["lightgbm"] | FEW
    assert read_params(plain, "lightgbm") == DEFAULTS["lightgbm"] | FEW
    with pytest.raises(ConfigError, match="cannot be read"):
        read_params(tmp_path / "none.json", "lightgbm")


def test_finetune_goes_on_with_later_days(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the model's own world; its thresholds keep the rule that they had."""
    out = tmp_path / "new"
    status = run_finetune(model, None, None, 7, out, None, force=True, as_json=True)
    found, old = json.loads(capsys.readouterr().out), read(model).manifest
    assert status == 0
    assert found["written"]
    manifest = read(out).manifest
    assert (manifest.version, manifest.training["base"]) == ("2.0.1", old.model_id)
    assert (manifest.training["start_day"], manifest.training["stop_day"]) == (143, 150)
    assert manifest.expected["asked"] == old.expected["asked"] == "alerts-per-day 6"
    assert manifest.training["customers"] == WORLD.customers


def test_finetune_goes_on_with_a_newer_file(
    own_model: Path, history: History, tmp_path: Path
) -> None:
    """Only with the days that the model has not learnt from."""
    world = dataclasses.replace(WORLD, days=130)
    newer = History(write_parquet(simulate(world)[0], tmp_path), 20)
    out = tmp_path / "new"
    run_finetune(own_model, newer, None, 7, out, RULE, force=True, as_json=True)
    training = read(out).manifest.training
    assert training["start_date"] == read(own_model).manifest.training["stop_date"]
    assert training["stop_date"] == "2018-07-13"
    with pytest.raises(ConfigError, match="are too few"):
        run_finetune(own_model, history, None, 7, out, RULE, force=True, as_json=True)
    with pytest.raises(ConfigError, match="trained on a file: give a newer one"):
        run_finetune(own_model, None, None, 7, out, RULE, force=True, as_json=True)


@pytest.fixture
def _worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fine-tuned model that lost on the held-out days."""

    def renew(base: Artefact, *_: object, **__: object) -> Renewed:
        manifest = base.manifest.model_copy(update={"version": "2.0.1"})
        return Renewed(base._replace(manifest=manifest), 0.7, 0.6, changed=True)

    monkeypatch.setattr(train_cli, "renew", renew)


@pytest.mark.usefixtures("_worse")
def test_a_worse_model_is_not_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 and why, unless it is forced; what lies there stays."""
    out = tmp_path / "new"
    assert run_finetune(model, None, None, 7, out, None, force=False, as_json=False) == 1
    captured = capsys.readouterr()
    assert "0.7000" in captured.out
    assert "worse on the held-out days: not written" in captured.err
    assert not out.exists()
    assert run_finetune(model, None, None, 7, out, None, force=False, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["written"] is False
    assert run_finetune(model, None, None, 7, out, None, force=True, as_json=False) == 0
    assert read(out).manifest.version == "2.0.1"


@pytest.mark.parametrize("rule", [ByAlerts(50), ByCost(Costs(3, 20)), ByTra(0.13)])
def test_a_rule_is_read_from_the_manifest(model: Path, rule: ByAlerts | ByCost | ByTra) -> None:
    """As `threshold` wrote it; 100 alerts a day where none is told."""
    manifest = read(model).manifest
    assert rule_as_asked(manifest.model_copy(update={"expected": {"asked": str(rule)}})) == rule
    assert rule_as_asked(manifest.model_copy(update={"expected": {}})) == ByAlerts(100)


def test_thresholds_are_picked_anew_with_their_card(model: Path, tmp_path: Path) -> None:
    """Manifest and card change together; the model's bytes stay."""
    artefact = read(model)
    save(tmp_path, artefact)
    evaluate_cli.set_thresholds(tmp_path, ByAlerts(3), None, None, as_json=True)
    changed = read(tmp_path)
    assert changed.model == artefact.model
    assert changed.manifest.thresholds.review > artefact.manifest.thresholds.review
    assert "`alerts-per-day 3`" in (tmp_path / CARD_FILE).read_text("utf-8")


@pytest.fixture
def _small_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search with one parameter, over quick fits."""
    monkeypatch.setitem(search.SPACE, "lightgbm", {"rounds": Range(2, 12, whole=True)})
    monkeypatch.setitem(DEFAULTS, "lightgbm", DEFAULTS["lightgbm"] | {"rounds": 5, "max_bin": 63})


@pytest.mark.usefixtures("_small_search")
def test_tune_writes_what_train_reads(
    history: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best of the trials, the first of which are the defaults; a study is gone on with."""
    out, study = tmp_path / "params.json", tmp_path / "study"
    tune_cli.run("lightgbm", history, 0, out, 2, None, study, as_json=True)
    first = json.loads(capsys.readouterr().out)
    assert first["trials"] == 2
    tune_cli.run("lightgbm", history, 0, out, 4, None, study, as_json=False)
    captured = capsys.readouterr()
    found = json.loads(out.read_text())
    assert found["trials"] == 4
    assert found["average_precision"] >= first["average_precision"]
    assert read_params(out, "lightgbm")["rounds"] == found["params"]["rounds"]
    assert "riskwire train --family lightgbm --data transactions.parquet" in captured.out
    assert "best of 4 trials" in captured.out
    assert "trials" in captured.err


@pytest.mark.usefixtures("_small_search")
def test_an_interrupted_search_keeps_its_best(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found is written before the interruption goes on its way."""

    def interrupted(*_: object, **kept: object) -> None:
        on_trial = kept["on_trial"]
        assert callable(on_trial)
        on_trial(search.Trial(0, {"rounds": 5}, (0.5, 0.6), 0.55, 1.0))
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_cli, "tune", interrupted)
    out = tmp_path / "params.json"
    with pytest.raises(KeyboardInterrupt):
        tune_cli.run("lightgbm", history, 0, out, as_json=True)
    assert json.loads(out.read_text())["params"] == {"rounds": 5}


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install, not a traceback; a fault of our own stays one."""

    def fail(name: str, error: type[ImportError] | type[OSError]) -> None:
        with cli_models._train_extra():
            if error is OSError:
                raise OSError(name)
            raise ModuleNotFoundError(name, name=name)

    with pytest.raises(ConfigError, match=r"optuna is not installed: pip install 'riskwire\[train"):
        fail("optuna", ImportError)
    with pytest.raises(ConfigError, match="libgomp"):
        fail("libgomp.so.1", OSError)
    with pytest.raises(ModuleNotFoundError):
        fail("app.nothing", ImportError)
    monkeypatch.setitem(__import__("sys").modules, "app.tune_cli", None)
    assert isinstance(CliRunner().invoke(cli.app, ["tune"]).exception, ModuleNotFoundError)


def test_the_command_line_knows_every_family() -> None:
    """Its list is written where no library is imported."""
    assert set(cli_models.Family.__args__) == set(FAMILIES)  # type: ignore[attr-defined]
    assert labelled.HOLDOUT_DAYS == cli_models.HOLDOUT_DAYS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--alerts-per-day", "5", "--tra-limit", "1"], "either"),
        (["train", "--data", "none.csv"], "none.csv"),
        (["evaluate", "--model", "nothing"], "neither"),
        (["evaluate", "--through-kafka", "--model", "xgboost", "--model", "mlp"], "one family"),
        (["evaluate", "--through-kafka", "--protocol", "other"], "leave out --protocol"),
        (["evaluate", "--through-kafka", "--alerts-per-day", "5"], "leave out --alerts-per-day"),
        (
            ["evaluate", "--through-kafka", "--cost", "review=5", "--tra-limit", "0"],
            "leave out --cost, --tra-limit",
        ),
        (["evaluate", "--partitions", "4"], "add --through-kafka or leave out --partitions"),
        (["evaluate", "--workers", "1"], "add --through-kafka or leave out --workers"),
        (["finetune", "nowhere"], "nowhere"),
        (["threshold", "nowhere"], "nowhere"),
        (["simulate", "--customers", "0"], "customers"),
    ],
)
def test_wrong_arguments_are_told(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As errors of the operator."""
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(cli.app, arguments).exception
    assert isinstance(error, ConfigError)
    assert message in str(error)


@pytest.mark.parametrize(
    ("arguments", "partitions", "workers"),
    [([], 4, 1), (["--protocol", "handbook", "--partitions", "2", "--workers", "3"], 2, 3)],
)
def test_a_replay_has_partitions_and_workers(
    arguments: list[str], partitions: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those given, else 4 and 1; the protocol's own name may be said."""
    called: dict[str, object] = {}

    def run(*_: object, **options: object) -> int:
        called.update(options)
        return 0

    monkeypatch.setattr(replay, "run", run)
    result = CliRunner().invoke(cli.app, ["evaluate", "--through-kafka", *arguments])
    assert result.exit_code == 0, result.exception
    assert (called["partitions"], called["workers"]) == (partitions, workers)
