"""`riskwire schemas lint`: what it says, and how it ends."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import schemas
from app.cli import app
from app.errors import ConfigError
from app.schemas_cli import lint_files
from tests.strategies import variant


def write(directory: Path, **texts: str) -> list[str]:
    """Files of these texts; their paths."""
    for name, text in texts.items():
        (directory / name).write_text(text, "utf-8")
    return [str(directory / name) for name in texts]


def test_good_schemas(tmp_path: Path) -> None:
    """Whatever a worker would take is ok, each for its own topic, and the status is 0."""
    mine = write(tmp_path, bundled=schemas.load("transaction").text, more=variant(extra="int"))
    result = CliRunner().invoke(app, ["schemas", "lint", *mine])
    assert (result.exit_code, result.stdout) == (0, "".join(f"{file}: ok\n" for file in mine))
    label = write(tmp_path, label=schemas.load("fraud_label").text)
    assert CliRunner().invoke(app, ["schemas", "lint", "--topic", "labels", *label]).exit_code == 0
    assert CliRunner().invoke(app, ["schemas", "lint", *label]).exit_code == 1


def test_bad_schemas(tmp_path: Path) -> None:
    """Each bad one is named with its reason beside the good ones, and the status is 1."""
    good, bomb, broken = write(
        tmp_path, good=variant(), bomb=variant(cvv="string"), broken="[" * 100_000
    )
    result = CliRunner().invoke(app, ["schemas", "lint", good, bomb, broken])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == f"{good}: ok"
    assert lines[1].startswith(f"{bomb}: field cvv: card verification codes")
    assert lines[2].startswith(f"{broken}: no Avro schema")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that cannot be read is the caller's to mend, and no schema's fault."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("nowhere", "binary"):
        with pytest.raises(ConfigError, match=f"{name} cannot be read"):
            lint_files([tmp_path / name], "transactions")
