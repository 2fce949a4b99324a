"""The manifest: read back as written, and every way in which it can be wrong is named."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import ModelError
from features.contract import LIVE
from models.manifest import EXPLAINER_FILE, MANIFEST_FILE, MODEL_FILE, read, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    write(tmp_path / "copy", read())
    return tmp_path / "copy"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest's JSON."""
    path = folder / MANIFEST_FILE
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_what_is_written_is_read(folder: Path) -> None:
    """A written model directory reads back equal, floats to the last bit."""
    assert read(folder) == read()


def test_the_model_id_names_the_bytes() -> None:
    """Name, version and the hash's first digits are in the id that scores carry."""
    manifest = read().manifest
    assert manifest.model_id == f"{manifest.name}-{manifest.version}-{manifest.sha256[:8]}"


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda m: m.pop("thresholds"), "thresholds"),
        (lambda m: m.update(sha256="abc"), "sha256"),
        (lambda m: m.pop("explainer_sha256"), "explainer_sha256"),
        (lambda m: m.update(lateness_s=-1), "lateness_s"),
        (lambda m: m.update(skew_s=0), "skew_s"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m["thresholds"].update(review=0.9, decline=0.5), "above"),
        (lambda m: m["thresholds"].update(review=0.0), "review"),
        (lambda m: m["thresholds"].update(decline=float("nan")), "decline"),
        (lambda m: m["reference"].pop(), "must have"),
        (lambda m: m["golden"]["vectors"][2].append(1.0), "must have"),
        (lambda m: m["golden"]["scores"].pop(), "another number"),
        (lambda m: m["golden"].update(vectors=[], scores=[]), "golden"),
        (lambda m: m.update(features=[]), "features"),
    ],
)
def test_a_malformed_manifest_is_refused(
    folder: Path, edit: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    """Each fault is a ModelError that names the file and what is wrong in it."""
    change(folder, edit)
    with pytest.raises(ModelError, match=complaint) as raised:
        read(folder)
    assert str(folder / MANIFEST_FILE) in str(raised.value)


def test_no_json_is_refused(folder: Path) -> None:
    """A file that is no JSON is a ModelError too."""
    (folder / MANIFEST_FILE).write_text("{")
    with pytest.raises(ModelError, match="no manifest"):
        read(folder)


@pytest.mark.parametrize("name", [MODEL_FILE, MANIFEST_FILE, EXPLAINER_FILE])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    """The message says which file cannot be read."""
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        read(folder)


@pytest.mark.parametrize("name", [MODEL_FILE, EXPLAINER_FILE])
def test_another_models_bytes_are_refused(folder: Path, name: str) -> None:
    """A file whose hash is not the manifest's is refused, both hashes in the message."""
    data = (folder / name).read_bytes() + b"\0"
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match="damaged") as raised:
        read(folder)
    manifest = read().manifest
    expected = manifest.sha256 if name == MODEL_FILE else manifest.explainer_sha256
    assert expected in str(raised.value)
    assert hashlib.sha256(data).hexdigest() in str(raised.value)


def test_times_of_the_features_are_read(folder: Path) -> None:
    """Seconds in the file, microseconds in the program; floats of the reference to the bit."""
    manifest = read(folder).manifest
    assert manifest.timing == LIVE
    assert tuple(manifest.reference_vector.tolist()) == manifest.reference
