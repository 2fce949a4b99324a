"""A trained net as ONNX: normalisation, Gemm and Relu layers, a Sigmoid, all in one graph.

Takes plain arrays and gives the bytes of a model float32[batch, F] -> float32[batch, 1]. Only
operators whose result for a row does not depend on the other rows of its batch are used. Same
arrays, same bytes. Needs the `onnx` package of the `train` extra; raises its ValidationError if the
arrays do not fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.manifest import INPUT, OUTPUT

Float32s = NDArray[np.float32]

OPSET = 17
IR_VERSION = 9


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """A multi-layer perceptron with its input normalisation.

    The input is clipped to +-`limit` after (x - mean) * scale, mean and scale float32 (F,), so that
    one absurd value cannot carry a score anywhere. `weights` float32 (in, out), `biases` (out,).
    """

    mean: Float32s
    scale: Float32s
    limit: float
    weights: Sequence[Float32s]
    biases: Sequence[Float32s]

    def normalise(self, matrix: Float32s) -> Float32s:
        """What the first layer sees, float32 (n, F); the graph computes the same."""
        bounded: Float32s = np.clip(
            (matrix - self.mean) * self.scale, np.float32(-self.limit), np.float32(self.limit)
        )
        return bounded


def to_onnx(net: Net, name: str) -> bytes:
    """The net as a checked ONNX model, serialised."""
    constants = {
        "mean": net.mean,
        "scale": net.scale,
        "lowest": np.array(-net.limit, np.float32),
        "highest": np.array(net.limit, np.float32),
    }
    nodes = [
        helper.make_node("Sub", [INPUT, "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "lowest", "highest"], ["layer0"]),
    ]
    last = len(net.weights)
    for k, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True), start=1):
        constants |= {f"weight{k}": weight, f"bias{k}": bias}
        gemm = [f"layer{k - 1}", f"weight{k}", f"bias{k}"]
        if k < last:
            nodes.append(helper.make_node("Gemm", gemm, [f"sum{k}"]))
            nodes.append(helper.make_node("Relu", [f"sum{k}"], [f"layer{k}"]))
        else:
            nodes.append(helper.make_node("Gemm", gemm, ["logit"]))
    nodes.append(helper.make_node("Sigmoid", ["logit"], [OUTPUT]))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", len(net.mean)])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="riskwire",
    )
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
