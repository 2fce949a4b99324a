"""A trained net as ONNX: normalisation, Gemm and Relu layers, a Sigmoid, all in one graph.

Takes plain arrays and gives the bytes of a model float32[batch, F] -> `score` and `raw` (log-odds),
both float32[batch, 1]; `read_net` takes them back out of the graph, so that training can go on.
Only operators whose result for a row does not depend on the other rows of its batch are used. Same
arrays, same bytes. Needs the `onnx` package of the `train` extra, whose ValidationError says that
arrays do not fit; a graph of another form is a ModelError.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from app.errors import ModelError
from models.manifest import INPUT, OUTPUT

Float32s = NDArray[np.float32]

RAW = "raw"
"""The second output: what the Sigmoid reads."""

OPSET, ML_OPSET = 17, 3
IR_VERSION = 9
ML_DOMAIN = "ai.onnx.ml"


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """A multi-layer perceptron with its input normalisation; without hidden layers, a linear model.

    What the first layer reads is clip((x @ spread - mean) * scale, -limit, limit): the bound keeps
    one absurd value from carrying a score anywhere. `spread` (F, M) of zeros and ones says which
    feature each of the M inputs is; None is each once. `mean` and `scale` are float32 (M,),
    `weights` float32 (in, out), `biases` (out,).
    """

    mean: Float32s
    scale: Float32s
    limit: float
    weights: Sequence[Float32s]
    biases: Sequence[Float32s]
    spread: Float32s | None = None

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.mean if self.spread is None else self.spread)

    def normalise(self, matrix: Float32s) -> Float32s:
        """What the first layer sees, float32 (n, M); the graph computes the same."""
        inputs = matrix if self.spread is None else matrix[:, self.spread.argmax(axis=0)]
        bounded: Float32s = np.clip(
            (inputs - self.mean) * self.scale, np.float32(-self.limit), np.float32(self.limit)
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
    nodes, inputs = [], INPUT
    if net.spread is not None:
        constants["spread"], inputs = net.spread, "inputs"
        # Gather along the second axis would be plainer, and four times as slow.
        nodes.append(helper.make_node("MatMul", [INPUT, "spread"], [inputs]))
    nodes += [
        helper.make_node("Sub", [inputs, "mean"], ["centred"]),
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
            nodes.append(helper.make_node("Gemm", gemm, [RAW]))
    return serialise(nodes, name, net.width, constants)


def read_net(model: bytes) -> Net:
    """The net of a model that `to_onnx` made; raises ModelError for another."""
    graph = onnx.load_from_string(model).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layers = sum(node.op_type == "Gemm" for node in graph.node)
    try:
        return Net(
            mean=held["mean"],
            scale=held["scale"],
            limit=held["highest"].item(),
            weights=[held[f"weight{k}"] for k in range(1, layers + 1)],
            biases=[held[f"bias{k}"] for k in range(1, layers + 1)],
            spread=held.get("spread"),
        )
    except KeyError as error:
        msg = f"the model is no net that models/export.py made: its graph has no {error}"
        raise ModelError(msg) from None


def serialise(
    nodes: Sequence[onnx.NodeProto], name: str, width: int, constants: Mapping[str, Float32s]
) -> bytes:
    """The bytes of a checked model: nodes that lead from INPUT to RAW, and the Sigmoid after it."""
    column: tuple[str, int] = ("batch", 1)
    graph = helper.make_graph(
        [*nodes, helper.make_node("Sigmoid", [RAW], [OUTPUT])],
        name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, column) for out in (OUTPUT, RAW)],
        [numpy_helper.from_array(np.asarray(v, order="C"), k) for k, v in constants.items()],
    )
    domains = {node.domain for node in nodes} | {""}
    opsets = {"": OPSET, ML_DOMAIN: ML_OPSET}
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, opsets[domain]) for domain in sorted(domains)],
        ir_version=IR_VERSION,
        producer_name="riskwire",
    )
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
