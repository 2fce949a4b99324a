"""ONNX Runtime behind `ports.Scorer`: the only module that imports it.

`load_scorer` reads a model directory, refuses what does not fit (damaged file, another feature
contract, another input, a missing provider) with a ModelError that says what to do, and scores the
manifest's golden vectors before anything else is scored. Trees are run by a compiled loop on the
CPU where that gives the session's bits (`models.forest`). A provider that was asked for by name is
there or the load fails; `auto` may settle for the CPU, says so in the log, and `provider` names
what runs. A failing run is a ScoringError. Sessions use one thread each and never spin: parallelism
is the worker's.
"""

import importlib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from app.decide import Policy
from app.errors import ModelError, ScoringError
from app.ports import Explainer
from app.records import Float32s
from app.score import score
from features.contract import contract_id
from models.explain import from_npz
from models.forest import Forest
from models.forest import read as read_forest
from models.manifest import INPUT, OUTPUT, RAW, Manifest, read

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
GPU_PROVIDERS = frozenset({CUDA, TENSORRT})
CPU_WHEEL, GPU_WHEEL = "onnxruntime", "onnxruntime-gpu"

# TF32 would round the inputs of every product to 10 bits of mantissa.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {CUDA: {"use_tf32": "0"}}

GOLDEN_TOLERANCE = 1e-6
EXPLAINED_TOLERANCE = 1e-3
FOREST_ROWS_MIN = 16
"""Of fewer rows a session is done sooner than the compiled trees, which take many at once."""
PROBES = 512

# ONNX Runtime writes to standard error by itself, past our log format: its errors only.
LOG_ERRORS = 3

_log = structlog.get_logger(__name__)


class OnnxScorer:
    """A loaded model with what its manifest says about it; implements `ports.Scorer`."""

    def __init__(
        self,
        session: Any,
        provider: str,
        manifest: Manifest,
        explainer: Explainer,
        trees: "CompiledTrees | None" = None,
    ) -> None:
        """Wrap an ONNX Runtime session; `load_scorer` makes and checks one."""
        self._session, self._trees = session, trees
        self.explainer = explainer
        self.provider = provider
        self.manifest = manifest
        self.model_id = manifest.model_id
        self.feature_contract_id = manifest.feature_contract_id
        self.policy = Policy(manifest.thresholds.review, manifest.thresholds.decline)
        self.timing = manifest.timing

    def score_many(self, matrix: Float32s) -> Float32s:
        """Probabilities, float32 (n,), of a C-contiguous matrix (n, features)."""
        if self._trees is not None and len(matrix) >= FOREST_ROWS_MIN:
            return self._trees.score_many(matrix)
        return run(self._session, matrix)

    def raw(self, matrix: Float32s) -> Float32s:
        """Raw scores (log-odds), float32 (n,), which the explainer takes apart."""
        return run(self._session, matrix, RAW)


class CompiledTrees:
    """The trees of a model in a compiled loop, and a session for what comes after them."""

    def __init__(self, forest: Forest, tail: Any) -> None:
        """`tail` is a session on the forest's own."""
        self._forest, self._tail = forest, tail

    def score_many(self, matrix: Float32s) -> Float32s:
        """See `OnnxScorer.score_many`."""
        return run(self._tail, self._forest.raw(matrix)[:, np.newaxis], inputs=RAW)

    def agrees(self, session: Any, reference: Float32s) -> bool:
        """Whether it gives the session's bits, also where a feature is just at a node's limit."""
        limits, features = self._forest.limit.ravel(), self._forest.feature.ravel()
        finite = np.flatnonzero(np.abs(limits) < np.finfo(np.float32).max)
        rows = np.tile(reference, (PROBES, 1))
        random = np.random.default_rng(0)
        for _ in range(3):
            nodes = random.choice(finite, PROBES)
            towards = random.choice([np.inf, -np.inf], PROBES)
            beside = np.nextafter(limits[nodes], towards.astype(np.float32))
            exact = random.random(PROBES) < 0.5
            rows[np.arange(PROBES), features[nodes]] = np.where(exact, limits[nodes], beside)
        return run(session, rows).tobytes() == self.score_many(rows).tobytes()


def compiled_trees(
    model: bytes, session: Any, provider: str, reference: Float32s
) -> CompiledTrees | None:
    """The model's trees compiled; None where it has none or they do not give the session's bits."""
    forest = read_forest(model) if provider == CPU else None
    if forest is None:
        return None
    trees = CompiledTrees(forest, open_session(forest.tail, CPU)[0])
    if trees.agrees(session, reference):
        return trees
    _log.warning("compiled trees do not give the session's scores; the session scores")
    return None


def load_scorer(directory: Path | None, providers: str = "auto") -> OnnxScorer:
    """Load the model of a directory (None: the shipped one); raises ModelError.

    `providers` is `auto` or ONNX Runtime's provider names in order, separated by commas.
    """
    manifest, model, explainer = read(directory)
    computed = contract_id(manifest.timing)
    if manifest.feature_contract_id != computed:
        msg = (
            f"{manifest.model_id} was trained on feature contract"
            f" {manifest.feature_contract_id}, this program computes {computed};"
            " train it again (riskwire train) or run the version that it was made for"
        )
        raise ModelError(msg)
    session, provider = open_session(model, providers)
    _check_graph(session, manifest)
    trees = compiled_trees(model, session, provider, manifest.reference_vector)
    explain = from_npz(explainer, len(manifest.features))
    scorer = OnnxScorer(session, provider, manifest, explain, trees)
    _check_golden(scorer)
    return scorer


def open_session(model: bytes, providers: str = "auto") -> tuple[Any, str]:
    """An ONNX Runtime session on the model's bytes, and the provider that runs it.

    Raises ModelError if the model does not load or a provider asked for by name does not run.
    """
    wheel = installed_wheel(_installed)
    runtime = importlib.import_module("onnxruntime")
    wanted = choose(providers, wheel, runtime.get_available_providers())
    if GPU_PROVIDERS & set(wanted) and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()
    named = [(name, PROVIDER_OPTIONS.get(name, {})) for name in wanted]
    try:
        session = runtime.InferenceSession(model, _options(runtime), providers=named)
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        msg = f"ONNX Runtime cannot load the model with {', '.join(wanted)}: {error}"
        raise ModelError(msg) from error
    session.disable_fallback()
    got = session.get_providers()
    if got[: len(wanted)] != wanted:
        if providers != "auto":
            msg = (
                f"asked for {', '.join(wanted)}, ONNX Runtime runs {', '.join(got)}: the driver,"
                " CUDA or cuDNN is missing; pip install 'riskwire[gpu]' brings all but the driver,"
                f" RISKWIRE_PROVIDERS={CPU} runs without a GPU"
            )
            raise ModelError(msg)
        _log.warning("GPU provider failed; scoring on the CPU", wanted=wanted, got=got)
    return session, got[0]


def run(session: Any, matrix: Float32s, output: str = OUTPUT, inputs: str = INPUT) -> Float32s:
    """One run of a session; any failure of ONNX Runtime is a ScoringError."""
    try:
        (scores,) = session.run([output], {inputs: matrix})
    except Exception as error:  # as in open_session
        msg = f"ONNX Runtime failed on {matrix.dtype}{list(matrix.shape)}: {error}"
        raise ScoringError(msg) from error
    flat: Float32s = scores.reshape(-1)
    return flat


def installed_wheel(installed: Callable[[str], bool]) -> str:
    """Which of the two wheels of ONNX Runtime is there; raises ModelError for none or both.

    Both write into the same package directory, so that what runs is a matter of luck.
    """
    match installed(CPU_WHEEL), installed(GPU_WHEEL):
        case True, True:
            msg = (
                f"{CPU_WHEEL} and {GPU_WHEEL} are both installed and overwrite each other:"
                f" pip uninstall -y {CPU_WHEEL} {GPU_WHEEL}, then pip install 'riskwire[cpu]'"
                " or 'riskwire[gpu]'"
            )
            raise ModelError(msg)
        case False, False:
            msg = "ONNX Runtime is not installed: pip install 'riskwire[cpu]' (or 'riskwire[gpu]')"
            raise ModelError(msg)
        case True, False:
            return CPU_WHEEL
    return GPU_WHEEL


def choose(providers: str, wheel: str, available: Sequence[str]) -> list[str]:
    """The providers to ask for, in order; raises ModelError for one that the wheel has not.

    `auto` is CUDA before the CPU with the GPU wheel, else the CPU. TensorRT takes minutes to build
    its engine and so is used by name only.
    """
    if providers == "auto":
        return [CUDA, CPU] if wheel == GPU_WHEEL and CUDA in available else [CPU]
    wanted = [name.strip() for name in providers.split(",") if name.strip()]
    missing = [name for name in wanted if name not in available]
    if missing or not wanted:
        msg = (
            f"the installed {wheel} has no {', '.join(missing) or 'provider of an empty name'}"
            f" (it has {', '.join(available)})"
        )
        if GPU_PROVIDERS & set(missing) and wheel == CPU_WHEEL:
            msg += f": pip uninstall -y {CPU_WHEEL} && pip install 'riskwire[gpu]'"
        raise ModelError(msg)
    return wanted


def _installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.log_severity_level = LOG_ERRORS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _check_graph(session: Any, manifest: Manifest) -> None:
    """Refuse a graph that is not float32[batch, features] -> float32 under the agreed names."""
    inputs = [(node.name, node.type, list(node.shape)) for node in session.get_inputs()]
    outputs = [(node.name, node.type) for node in session.get_outputs()]
    width = len(manifest.features)
    good = (
        len(inputs) == 1
        and inputs[0][:2] == (INPUT, "tensor(float)")
        and len(inputs[0][2]) == 2
        and not isinstance(inputs[0][2][0], int)
        and inputs[0][2][1] == width
        and {(OUTPUT, "tensor(float)"), (RAW, "tensor(float)")} <= set(outputs)
    )
    if not good:
        msg = (
            f"{manifest.model_id} must read {INPUT} float32[batch, {width}] and give {OUTPUT}"
            f" and {RAW} float32; its graph reads {inputs} and gives {outputs}"
        )
        raise ModelError(msg)


def _check_golden(scorer: OnnxScorer) -> None:
    """Score and explain the manifest's golden vectors; another CPU may differ in the last bits."""
    golden = scorer.manifest.golden
    try:
        found = score(np.array(golden.vectors, np.float32), scorer)
    except ScoringError as error:
        msg = f"{scorer.model_id} fails on its golden vectors: {error}"
        raise ModelError(msg) from error
    off = float(np.abs(found - np.array(golden.scores)).max())
    if off > GOLDEN_TOLERANCE:
        msg = (
            f"{scorer.model_id} on {scorer.provider} misses its golden scores by {off:.2g}"
            f" (allowed {GOLDEN_TOLERANCE:g})"
        )
        raise ModelError(msg)
    rows = np.array(golden.vectors, np.float32)
    explained = scorer.explainer.base + scorer.explainer.contributions(rows).sum(axis=1)
    off = float(np.abs(explained - scorer.raw(rows)).max())
    if off > EXPLAINED_TOLERANCE:
        msg = f"the explainer of {scorer.model_id} misses its raw scores by {off:.2g}"
        raise ModelError(msg)
