"""The manifest beside a model: what it is, what it reads, what it decides, and how to check it.

A model is a directory with `scorer.onnx` and `scorer.json`. `read` gives the manifest and the
model's bytes after checking that they belong together; every fault is a ModelError that names the
file. Whether the feature contract is the running one is checked where the model is loaded. No model
runtime here.
"""

import hashlib
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import ModelError

MODEL_FILE = "scorer.onnx"
MANIFEST_FILE = "scorer.json"
SHIPPED = Path(__file__).parent / "shipped"
HASH_DIGITS = 8

INPUT, OUTPUT = "features", "score"
"""Names in the ONNX graph: float32[batch, features] in, float32[batch] or [batch, 1] out."""


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
    """The content of scorer.json. Vectors are in the order of `features`."""

    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    feature_contract_id: str
    features: tuple[str, ...] = Field(min_length=1)
    thresholds: Thresholds
    reference: tuple[float, ...]
    golden: Golden
    metrics: dict[str, float]
    training: dict[str, str | int | float]

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
    def reference_vector(self) -> NDArray[np.float32]:
        """Each feature's usual value, float32 (features,)."""
        return np.array(self.reference, np.float32)


def read(directory: Path | None = None) -> tuple[Manifest, bytes]:
    """The manifest and the model's bytes from a directory; None is the shipped model.

    Raises ModelError if a file is missing, the manifest is malformed, or the hash does not fit.
    """
    folder = SHIPPED if directory is None else directory
    manifest = _parse(folder / MANIFEST_FILE)
    model = _bytes(folder / MODEL_FILE)
    found = hashlib.sha256(model).hexdigest()
    if found != manifest.sha256:
        msg = (
            f"{folder / MODEL_FILE} is damaged or not the model of its manifest:"
            f" SHA-256 {found}, the manifest says {manifest.sha256}"
        )
        raise ModelError(msg)
    return manifest, model


def write(directory: Path, manifest: Manifest, model: bytes) -> None:
    """Write both files; the directory is made if it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MODEL_FILE).write_bytes(model)
    (directory / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")


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
