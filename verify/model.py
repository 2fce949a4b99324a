"""The model that scored: its manifest, and its scores computed once more on one CPU thread."""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.contract import Timing, contract_id
from verify.evidence import CannotDecide

SHIPPED = Path(__file__).parent.parent / "models" / "shipped"
CPU = "CPUExecutionProvider"


class Model:
    """A model's directory."""

    def __init__(self, directory: Path) -> None:
        """Raise CannotDecide where it is damaged or follows other features than ours."""
        try:
            manifest = json.loads((directory / "scorer.json").read_text("utf-8"))
            data = (directory / "scorer.onnx").read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            self.timing = Timing(
                1_000_000 * int(manifest["lateness_s"]), 1_000_000 * int(manifest["skew_s"])
            )
            self.id = f"{manifest['name']}-{manifest['version']}-{digest[:8]}"
            levels = (0, manifest["thresholds"]["review"], manifest["thresholds"]["decline"])
            self.thresholds = np.array(levels, np.float32)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CannotDecide(f"{directory} is no model's directory: {error}") from None
        if digest != manifest["sha256"]:
            raise CannotDecide(f"{directory}: the model is not that of its manifest")
        self.contract_id = contract_id(self.timing)
        if manifest["feature_contract_id"] != self.contract_id:
            raise CannotDecide(f"{self.id} follows other features than {self.contract_id}")
        self._session = _session(data)

    def scores(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """The score of each row."""
        [found] = self._session.run(["score"], {"features": matrix})
        scores: NDArray[np.float32] = found.reshape(-1)
        return scores

    def decision(self, score: float) -> int:
        """0 approve, 1 review, 2 decline; a score equal to a threshold has reached it."""
        return int((np.float32(score) >= self.thresholds[1:]).sum())


def _session(data: bytes) -> Any:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    return runtime.InferenceSession(data, options, providers=[CPU])
