"""The manifest beside a model: what it is, what it reads, what it decides, and how to check it.

A model is a directory with `scorer.onnx`, `scorer.json` and `explainer.npz`. `read` gives them
after checking that they belong together; every fault is a ModelError that names the file. Whether
the feature contract is the running one is checked where the model is loaded. No model runtime here.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import ModelError
from features.contract import NAMES, Timing, contract_id

MODEL_FILE = "scorer.onnx"
MANIFEST_FILE = "scorer.json"
EXPLAINER_FILE = "explainer.npz"
SHIPPED = Path(__file__).parent / "shipped"
HASH_DIGITS = 8

INPUT, OUTPUT, RAW = "features", "score", "raw"
"""Names in the ONNX graph: float32[batch, features] in; score and log-odds [batch, 1] out."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Thresholds(_Part):
    """The least score of a review and of a decline."""

    review: float = Field(gt=0, le=1)
    decline: float = Field(gt=0, le=1)


class Golden(_Part):
    """Feature vectors and the scores that the model gave when it was made."""

    vectors: tuple[tuple[float, ...], ...] = Field(min_length=1)
    scores: tuple[float, ...]


class Manifest(_Part):
    """The content of scorer.json. Vectors are in the order of `features`.

    `lateness_s` and `skew_s` are the timing of the feature contract, by which the worker keeps its
    state. `expected` says what the thresholds were asked for and what they promise.
    """

    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    family: str = ""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    explainer_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    feature_contract_id: str
    lateness_s: int = Field(ge=0)
    skew_s: int = Field(gt=0)
    features: tuple[str, ...] = Field(min_length=1)
    thresholds: Thresholds
    reference: tuple[float, ...]
    golden: Golden
    metrics: dict[str, float]
    training: dict[str, str | int | float]
    expected: dict[str, str | int | float] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        width = len(self.features)
        if {width} != {len(self.reference), *map(len, self.golden.vectors)}:
            msg = f"reference and golden vectors must have {width} values, one for each feature"
            raise ValueError(msg)
        if len(self.golden.scores) != len(self.golden.vectors):
            msg = "golden has another number of scores than of vectors"
            raise ValueError(msg)
        if self.thresholds.review > self.thresholds.decline:
            msg = "thresholds.review is above thresholds.decline"
            raise ValueError(msg)
        return self

    @property
    def model_id(self) -> str:
        """Name, version and first digits of the model's hash: what scores and alerts carry."""
        return f"{self.name}-{self.version}-{self.sha256[:HASH_DIGITS]}"

    @property
    def timing(self) -> Timing:
        """The time rules of the features that the model was trained on."""
        return Timing(self.lateness_s * 1_000_000, self.skew_s * 1_000_000)

    @property
    def reference_vector(self) -> NDArray[np.float32]:
        """Each feature's usual value, float32 (features,)."""
        return np.array(self.reference, np.float32)


class Artefact(NamedTuple):
    """What a model's directory holds."""

    manifest: Manifest
    model: bytes
    explainer: bytes


def described(
    model: bytes,
    explainer: bytes,
    timing: Timing,
    *,
    reference: NDArray[np.floating],
    **fields: Any,
) -> Artefact:
    """A model on this program's features with its manifest; `fields` are the manifest's others."""
    manifest = Manifest(
        sha256=hashlib.sha256(model).hexdigest(),
        explainer_sha256=hashlib.sha256(explainer).hexdigest(),
        feature_contract_id=contract_id(timing),
        lateness_s=timing.lateness_us // 1_000_000,
        skew_s=timing.skew_us // 1_000_000,
        features=NAMES,
        reference=tuple(reference.tolist()),
        **fields,
    )
    return Artefact(manifest, model, explainer)


def read(directory: Path | None = None) -> Artefact:
    """A model's manifest and bytes from a directory; None is the shipped model.

    Raises ModelError if a file is missing, the manifest is malformed, or a hash does not fit.
    """
    folder = SHIPPED if directory is None else directory
    manifest = _parse(folder / MANIFEST_FILE)
    model = _checked(folder / MODEL_FILE, manifest.sha256)
    return Artefact(manifest, model, _checked(folder / EXPLAINER_FILE, manifest.explainer_sha256))


def write(directory: Path, artefact: Artefact) -> None:
    """Write all files; the directory is made if it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MODEL_FILE).write_bytes(artefact.model)
    (directory / EXPLAINER_FILE).write_bytes(artefact.explainer)
    text = artefact.manifest.model_dump_json(indent=1) + "\n"
    (directory / MANIFEST_FILE).write_text(text, "utf-8")


def _checked(path: Path, sha256: str) -> bytes:
    data = _bytes(path)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        msg = (
            f"{path} is damaged or not the one of its manifest:"
            f" SHA-256 {found}, the manifest says {sha256}"
        )
        raise ModelError(msg)
    return data


def _parse(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(_bytes(path))
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        msg = f"{path} is no manifest of a model:\n" + "\n".join(lines)
        raise ModelError(msg) from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise ModelError(msg) from None
