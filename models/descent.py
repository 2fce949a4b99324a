"""Training of a net by stochastic gradient descent on cross-entropy, in plain NumPy.

`descend` takes a `Net` as it is, fresh from `untrained` or read back from a model, and gives the
net after a course of Adam with decoupled weight decay (Loshchilov and Hutter 2019), a short warm-up
and a cosine to zero. Where it is given rows to validate on, the net with their least loss is kept,
the one it began with included. Everything float32; same input, same bits under one BLAS thread.
Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.export import Net

Float32s = NDArray[np.float32]
Int8s = NDArray[np.int8]

MOMENTUM, SQUARES, TINY = 0.9, 0.999, np.float32(1e-8)
WARM_UP_STEPS = 100
STEPS_MIN = 128
ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Course:
    """How long and how fast: passes over the rows, rows a step, highest rate, weight decay.

    Few rows are taken in smaller steps, STEPS_MIN of them a pass. With rows to validate on, it
    ends after `patience` passes without a smaller loss.
    """

    epochs: int
    batch: int
    rate: float
    decay: float
    patience: int = 3


@dataclass(slots=True, eq=False)
class Moments:
    """Adam's memory of one parameter's gradients."""

    mean: Float32s
    square: Float32s

    def step(self, parameter: Float32s, gradient: Float32s, rate: float, steps: int) -> None:
        """Change the parameter in place, at its `steps`-th step."""
        self.mean += np.float32(1 - MOMENTUM) * (gradient - self.mean)
        self.square += np.float32(1 - SQUARES) * (gradient * gradient - self.square)
        bias = np.sqrt(1 - SQUARES**steps) / (1 - MOMENTUM**steps)
        parameter -= np.float32(rate * bias) * self.mean / (np.sqrt(self.square) + TINY)


def untrained(encoding: Net, layers: Sequence[int], share: float, seed: int) -> Net:
    """A net over the encoding's inputs with random weights (He 2015) that scores `share`."""
    rng = np.random.default_rng(seed)
    sizes = [len(encoding.mean), *layers, 1]
    weights = [
        (rng.standard_normal((rows, columns)) * np.sqrt(2 / rows)).astype(np.float32)
        for rows, columns in pairwise(sizes)
    ]
    biases = [np.zeros(size, np.float32) for size in sizes[1:]]
    biases[-1][:] = np.log(share / (1 - share))
    return replace(encoding, weights=weights, biases=biases)


def raw_scores(net: Net, matrix: Float32s) -> Float32s:
    """The log-odds that the net gives to each row, float32 (n,)."""
    parts = np.array_split(matrix, len(matrix) // ROWS_AT_ONCE + 1)
    return np.concatenate([_layers(net, part)[-1][:, 0] for part in parts])


def cross_entropy(raw: NDArray[np.floating], fraud: Int8s) -> float:
    """Mean loss of log-odds."""
    return float(np.mean(np.logaddexp(0, raw.astype(np.float64)) - raw * fraud))


def descend(
    net: Net,
    matrix: Float32s,
    fraud: Int8s,
    course: Course,
    seed: int,
    validation: tuple[Float32s, Int8s] | None = None,
) -> Net:
    """The net after the course on rows float32 (n, F) with their truth int8 (n,)."""
    rng = np.random.default_rng(seed)
    net = _copy(net)
    parameters = [*net.weights, *net.biases]
    moments = [Moments(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    batch = max(1, min(course.batch, len(matrix) // STEPS_MIN))
    steps = len(matrix) // batch
    best, least, waited = _copy(net), _loss(net, validation), 0
    for epoch in range(course.epochs):
        order = rng.permutation(len(matrix))[: steps * batch]
        for step, rows in enumerate(order.reshape(steps, batch), start=epoch * steps):
            rate = course.rate * _shape(step, course.epochs * steps)
            gradients = _gradients(net, matrix[rows], fraud[rows])
            for weight in net.weights:
                np.multiply(weight, np.float32(1 - rate * course.decay), out=weight)
            for parameter, moment, gradient in zip(parameters, moments, gradients, strict=True):
                moment.step(parameter, gradient, rate, step + 1)
        loss = _loss(net, validation)
        waited = 0 if loss < least else waited + 1
        if loss < least or validation is None:
            best, least = _copy(net), loss
        elif waited == course.patience:
            break
    return best


def _shape(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (1 + float(np.cos(np.pi * step / steps))) / 2


def _copy(net: Net) -> Net:
    return replace(net, weights=[*map(np.copy, net.weights)], biases=[*map(np.copy, net.biases)])


def _loss(net: Net, validation: tuple[Float32s, Int8s] | None) -> float:
    if validation is None:
        return 0.0
    matrix, fraud = validation
    return cross_entropy(raw_scores(net, matrix), fraud)


def _layers(net: Net, matrix: Float32s) -> list[Float32s]:
    """What each layer reads, and the raw score at the end."""
    values = [net.normalise(matrix)]
    last = len(net.weights) - 1
    for k, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        total = values[-1] @ weight + bias
        values.append(total if k == last else np.maximum(total, np.float32(0)))
    return values


def _gradients(net: Net, matrix: Float32s, fraud: Int8s) -> list[Float32s]:
    """Of the mean cross-entropy by the weights, then by the biases."""
    values = _layers(net, matrix)
    share = (1 + np.tanh(values[-1] / 2)) / 2
    slope = ((share - fraud[:, np.newaxis]) / len(matrix)).astype(np.float32)
    weights: list[Float32s] = []
    biases: list[Float32s] = []
    for k in range(len(net.weights) - 1, -1, -1):
        weights.insert(0, values[k].T @ slope)
        biases.insert(0, slope.sum(axis=0))
        if k > 0:
            slope = (slope @ net.weights[k].T) * (values[k] > 0)
    return [*weights, *biases]
