"""Loading a model: what does not fit is refused with a message that says what to do."""

import hashlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from structlog.testing import capture_logs

from app.adapters import onnx as adapter
from app.adapters.onnx import CPU, CUDA, choose, installed_wheel, load_scorer, open_session, run
from app.errors import ModelError, ScoringError
from features.contract import CONTRACT_ID, WIDTH
from models.manifest import MANIFEST_FILE, MODEL_FILE, read, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    write(tmp_path, read())
    return tmp_path


def replace_model(folder: Path, edit: Callable[[onnx.ModelProto], object]) -> None:
    """Edit the graph, and let the manifest name the new bytes."""
    model = onnx.load_from_string((folder / MODEL_FILE).read_bytes())
    edit(model)
    replace_bytes(folder, model.SerializeToString())


def replace_bytes(folder: Path, data: bytes) -> None:
    """Put other bytes in the model's place, with their right hash in the manifest."""
    (folder / MODEL_FILE).write_bytes(data)
    content = json.loads((folder / MANIFEST_FILE).read_text())
    content["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / MANIFEST_FILE).write_text(json.dumps(content))


def test_the_shipped_model_loads() -> None:
    """It names its model, contract, provider and thresholds, and explains what it scores."""
    scorer = load_scorer(None, CPU)
    assert scorer.provider == CPU
    assert scorer.feature_contract_id == CONTRACT_ID
    assert scorer.model_id == scorer.manifest.model_id
    assert 0 < scorer.policy.review <= scorer.policy.decline
    row = scorer.manifest.reference_vector[np.newaxis]
    assert scorer.score_many(row).shape == (1,)
    total = scorer.explainer.base + scorer.explainer.contributions(row).sum()
    np.testing.assert_allclose(total, scorer.raw(row)[0], atol=1e-4)


def test_another_contract_is_refused(folder: Path) -> None:
    """A model of other features is refused, both ids in the message."""
    content = json.loads((folder / MANIFEST_FILE).read_text())
    content["feature_contract_id"] = "0123456789abcdef"
    (folder / MANIFEST_FILE).write_text(json.dumps(content))
    with pytest.raises(ModelError, match="feature contract") as raised:
        load_scorer(folder, CPU)
    assert CONTRACT_ID in str(raised.value)
    assert "0123456789abcdef" in str(raised.value)


def test_a_damaged_file_is_refused(folder: Path) -> None:
    """One changed byte is found by the hash before ONNX Runtime sees it."""
    data = bytearray((folder / MODEL_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / MODEL_FILE).write_bytes(data)
    with pytest.raises(ModelError, match="SHA-256"):
        load_scorer(folder, CPU)


def test_a_truncated_model_is_refused(folder: Path) -> None:
    """Half a model whose manifest agrees with it is refused by the load."""
    replace_bytes(folder, (folder / MODEL_FILE).read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot load"):
        load_scorer(folder, CPU)


def rename_input(model: onnx.ModelProto) -> None:
    """Call the input `x`."""
    model.graph.input[0].name = "x"
    model.graph.node[0].input[0] = "x"


def rename_output(model: onnx.ModelProto) -> None:
    """Call the output `y`."""
    model.graph.output[0].name = "y"
    model.graph.node[-1].output[0] = "y"


def fix_batch(model: onnx.ModelProto) -> None:
    """Let the model take one row only."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize("edit", [rename_input, rename_output, fix_batch])
def test_another_graph_is_refused(folder: Path, edit: Callable[[onnx.ModelProto], None]) -> None:
    """Other names or a fixed batch are refused; the message shows what is wanted and found."""
    replace_model(folder, edit)
    with pytest.raises(ModelError, match=rf"must read features float32\[batch, {WIDTH}\]"):
        load_scorer(folder, CPU)


def test_another_width_is_refused(folder: Path) -> None:
    """A manifest with fewer features than the graph reads is refused."""
    content = json.loads((folder / MANIFEST_FILE).read_text())
    for values in (content["features"], content["reference"], *content["golden"]["vectors"]):
        values.pop()
    (folder / MANIFEST_FILE).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=rf"must read features float32\[batch, {WIDTH - 1}\]"):
        load_scorer(folder, CPU)


def shift_leaves(model: onnx.ModelProto) -> None:
    """Change every leaf a little."""
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "target_weights":
            attribute.floats[:] = [weight + 1e-3 for weight in attribute.floats]


def test_a_model_that_scores_otherwise_is_refused(folder: Path) -> None:
    """The golden vectors find a model that loads and looks right but computes something else."""
    replace_model(folder, shift_leaves)
    with pytest.raises(ModelError, match="golden scores"):
        load_scorer(folder, CPU)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    """The message names the file that is not there."""
    with pytest.raises(ModelError, match=MANIFEST_FILE):
        load_scorer(tmp_path / "nowhere", CPU)


def test_a_failing_run_is_a_scoring_error() -> None:
    """What ONNX Runtime raises on a matrix of another width arrives as ours."""
    with pytest.raises(ScoringError, match=r"float32\[2, 3\]"):
        load_scorer(None, CPU).score_many(np.zeros((2, 3), np.float32))


def test_exactly_one_wheel_may_be_installed() -> None:
    """None or both wheels are refused with the command that mends it."""
    assert installed_wheel(lambda name: name == "onnxruntime") == "onnxruntime"
    assert installed_wheel(lambda name: name == "onnxruntime-gpu") == "onnxruntime-gpu"
    with pytest.raises(ModelError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        installed_wheel(lambda _: True)
    with pytest.raises(ModelError, match=r"pip install 'riskwire\[cpu\]'"):
        installed_wheel(lambda _: False)


def test_auto_prefers_the_gpu_that_is_there() -> None:
    """The GPU wheel's CUDA comes before the CPU; TensorRT is never chosen by itself."""
    everything = ["TensorrtExecutionProvider", CUDA, CPU]
    assert choose("auto", "onnxruntime-gpu", everything) == [CUDA, CPU]
    assert choose("auto", "onnxruntime-gpu", [CPU]) == [CPU]
    assert choose("auto", "onnxruntime", [CPU]) == [CPU]
    assert choose(f" {CUDA}, {CPU}", "onnxruntime-gpu", everything) == [CUDA, CPU]


def test_a_provider_asked_for_must_be_there() -> None:
    """A missing provider is refused, with what to install where that would help."""
    with pytest.raises(ModelError, match=r"riskwire\[gpu\]"):
        choose(CUDA, "onnxruntime", [CPU])
    with pytest.raises(ModelError, match="has no FancyProvider"):
        choose(f"FancyProvider,{CPU}", "onnxruntime-gpu", [CUDA, CPU])
    with pytest.raises(ModelError, match="empty name"):
        choose(" , ", "onnxruntime", [CPU])


class BrokenGpu:
    """ONNX Runtime with the GPU wheel on a machine whose GPU does not start."""

    def __init__(self, real: object) -> None:
        self._real = real
        self.preloaded = False
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def get_available_providers(self) -> list[str]:
        """What the wheel was built with."""
        return [CUDA, CPU]

    def preload_dlls(self) -> None:
        """Remember that the libraries were loaded first."""
        self.preloaded = True

    def InferenceSession(  # noqa: N802 - ONNX Runtime's name
        self, model: bytes, options: object, providers: list[tuple[str, dict[str, str]]]
    ) -> object:
        """Fall back to the CPU as ONNX Runtime does: without raising."""
        self.asked.append(providers[0])
        make = self._real.InferenceSession  # type: ignore[attr-defined]
        return make(model, options, providers=[CPU])


@pytest.fixture
def broken_gpu(monkeypatch: pytest.MonkeyPatch) -> BrokenGpu:
    """Let the adapter find the GPU wheel and a GPU that fails."""
    fake = BrokenGpu(importlib.import_module("onnxruntime"))
    monkeypatch.setattr(importlib, "import_module", lambda _: fake)
    monkeypatch.setattr(adapter, "_installed", lambda name: name == "onnxruntime-gpu")
    return fake


def test_auto_says_when_the_gpu_fails(broken_gpu: BrokenGpu) -> None:
    """With `auto`, a failing GPU means the CPU, a warning, and a provider that says so."""
    with capture_logs() as logs:
        scorer = load_scorer(None, "auto")
    assert scorer.provider == CPU
    assert broken_gpu.preloaded
    assert broken_gpu.asked[0] == (CUDA, {"use_tf32": "0"})
    [entry] = [entry for entry in logs if entry["log_level"] == "warning"]
    assert "CPU" in entry["event"]
    assert entry["wanted"] == [CUDA, CPU]


@pytest.mark.usefixtures("broken_gpu")
def test_a_gpu_asked_for_by_name_must_run() -> None:
    """A named provider that fails is an error, never a silent fall to the CPU."""
    with pytest.raises(ModelError, match="asked for CUDAExecutionProvider"):
        load_scorer(None, f"{CUDA},{CPU}")


def test_a_session_has_one_thread() -> None:
    """Parallelism is the worker's: a session uses one thread and does not spin."""
    session, provider = open_session(read()[1], CPU)
    options = session.get_session_options()
    assert provider == CPU
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"
    assert run(session, np.zeros((2, WIDTH), np.float32)).shape == (2,)
