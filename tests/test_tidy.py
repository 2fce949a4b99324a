"""The architecture's promises as tests: who may import what, sizes, docstrings, clean locks."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import schemas

ROOT = Path(__file__).parent.parent
PACKAGES = ("app", "features", "models", "schemas", "verify")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EVERYTHING = MODULES + TESTS
LOCKS = sorted(path for path in ROOT.rglob("requirements/*.txt") if ".venv" not in path.parts)

CLIENTS = frozenset({"aiokafka", "confluent_kafka", "ctypes", "faust", "onnxruntime", "redis"})
OUTSIDE = CLIENTS | {"app.adapters", "asyncio", "hiredis", "mode", "os", "socket", "time"}
# The checker shares no code with the adapters that it checks.
MAY_ACT = ("app/adapters/", "app/bench/lanes/", "app/bench/peers/", "verify/")
CHECKED = frozenset({"app", "features", "models", "schemas", "tests", "fastavro", "numba"})
PURE_STAGES = (
    "avro_plan",
    "decide",
    "decode",
    "decode_twin",
    "emit",
    "encode",
    "enrich",
    "latency",
    "align",
    "entities",
    "labels",
    "letters",
    "live",
    "meta",
    "records",
    "schema_lint",
    "score",
    "writers",
)
PURE = [ROOT / "app" / f"{name}.py" for name in PURE_STAGES] + [
    path for path in MODULES if path.relative_to(ROOT).parts[0] in {"features", "schemas"}
]
MODULE_LINES_MAX, FUNCTION_LINES_MAX, LINE_CHARACTERS_MAX = 500, 70, 100
NOTES = ("TO" + "DO", "FIX" + "ME")


def name_of(path: Path) -> str:
    """The path as shown by pytest."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden(path: Path, names: frozenset[str]) -> list[str]:
    """What a file imports of these modules or from within them."""
    return [
        found
        for found in imports(path)
        if any(found == name or found.startswith(name + ".") for name in names)
    ]


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_stages_features_and_schemas_are_pure(path: Path) -> None:
    """They import no client library, no adapter, no event loop, no clock and no system."""
    assert not forbidden(path, OUTSIDE)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_clients_are_imported_by_adapters_only(path: Path) -> None:
    """Faust, Kafka, Redis, ONNX Runtime and C are reached through app/adapters (peers apart)."""
    if not name_of(path).startswith(MAY_ACT):
        assert not forbidden(path, CLIENTS)


@pytest.mark.parametrize("path", sorted((ROOT / "verify").glob("*.py")), ids=name_of)
def test_the_checker_shares_no_code_with_what_it_checks(path: Path) -> None:
    """Of Riskwire it imports the feature contract only, which declares and computes nothing."""
    shared = {
        each for each in forbidden(path, CHECKED) if each.split(".")[:2] != ["features", "contract"]
    }
    assert not shared


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_sizes(path: Path) -> None:
    """Modules, functions and lines stay within what a reader takes in at once."""
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= MODULE_LINES_MAX
    assert not [i for i, line in enumerate(lines, 1) if len(line) > LINE_CHARACTERS_MAX]
    functions = [
        node
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    sizes = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
    assert not {name: size for name, size in sizes.items() if size > FUNCTION_LINES_MAX}


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    """A module that is not empty opens with a docstring and holds no notes for later."""
    text = path.read_text("utf-8")
    assert not text or ast.get_docstring(ast.parse(text))
    assert not [note for note in NOTES if note in text]


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_every_test_says_what_must_hold(path: Path) -> None:
    """Each test function has a docstring."""
    mute = [
        node.name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not mute


@pytest.mark.parametrize("path", LOCKS, ids=name_of)
def test_locks_are_pinned_by_hash_and_name_no_registry(path: Path) -> None:
    """Every line of a lock is a pinned version with hashes; no address, so any registry serves."""
    text = path.read_text("utf-8")
    entries = text.replace("\\\n", "").splitlines()
    pinned = [line for line in entries if line and not line.lstrip().startswith("#")]
    assert pinned
    assert not [line for line in pinned if "==" not in line or "--hash=sha256:" not in line]
    assert "://" not in text


def _fields(schema: Any) -> Iterator[dict[str, Any]]:
    """Every field of an Avro schema, nested records included."""
    if isinstance(schema, list):
        for part in schema:
            yield from _fields(part)
    elif isinstance(schema, dict):
        for field in schema.get("fields", ()):
            yield field
            yield from _fields(field["type"])
        for inner in ("items", "values", "type"):
            yield from _fields(schema.get(inner))


@pytest.mark.parametrize("name", schemas.NAMES)
def test_every_field_of_a_schema_is_explained(name: str) -> None:
    """The wire contract says what each field means."""
    fields = list(_fields(json.loads(schemas.load(name).text)))
    assert len(fields) > 2
    assert not [field["name"] for field in fields if len(field.get("doc", "")) < 8]
