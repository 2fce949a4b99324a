"""The page of settings: complete, and free of secrets."""

from pathlib import Path

import pytest

from app import config_page
from app.config import PREFIX, Settings, load_settings
from app.errors import ConfigError

SECRET = "hunter2"  # noqa: S105 -- what must never be shown


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where no .env and no secrets of a developer are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secrets").mkdir()
    monkeypatch.setenv("RISKWIRE_SECRETS_DIR", str(tmp_path / "secrets"))


def pages() -> dict[str, str]:
    """Return every form of the page."""
    listed = config_page.entries(load_settings())
    return {
        form.__name__: form(listed)
        for form in (config_page.plain, config_page.markdown, config_page.env_file)
    }


def test_every_setting_is_on_every_page() -> None:
    """Name and meaning of each field stand in all forms."""
    for page in pages().values():
        for name, field in Settings.model_fields.items():
            assert PREFIX + name.upper() in page
            assert field.description
            assert field.description in page.replace("\\|", "|")


def test_secrets_are_in_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as a field, not in an address, not among librdkafka's options."""
    monkeypatch.setenv("RISKWIRE_SASL_PASSWORD", SECRET)
    monkeypatch.setenv("RISKWIRE_REDIS_URL", f"redis://user:{SECRET}@redis.example:6379/0")
    monkeypatch.setenv("RISKWIRE_SCHEMA_REGISTRY_AUTH", f"user:{SECRET}")
    monkeypatch.setenv("RISKWIRE_SCHEMA_REGISTRY_URL", f"https://u:{SECRET}@registry.example")
    monkeypatch.setenv(
        "RISKWIRE_KAFKA_OPTIONS",
        f'{{"sasl.username": "me", "ssl.key.password": "{SECRET}", "sasl.password": "{SECRET}"}}',
    )
    for page in pages().values():
        assert SECRET not in page
    assert "redis://***@redis.example:6379/0" in pages()["plain"]
    assert '"sasl.username": "me"' in pages()["plain"]


def test_says_who_set_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment comes before .env, and .env before secret files, as for the settings."""
    (tmp_path / ".env").write_text("RISKWIRE_GROUP_ID=from-file\nRISKWIRE_PARTITIONS=7\n", "utf-8")
    (tmp_path / "secrets" / "riskwire_sasl_password").write_text(SECRET, "utf-8")
    monkeypatch.setenv("RISKWIRE_GROUP_ID", "from-environment")
    listed = {entry.name: entry for entry in config_page.entries(load_settings())}
    assert listed["RISKWIRE_GROUP_ID"].source == "environment"
    assert listed["RISKWIRE_GROUP_ID"].value == "from-environment"
    assert listed["RISKWIRE_PARTITIONS"].source == ".env"
    assert listed["RISKWIRE_PARTITIONS"].value == "7"
    assert listed["RISKWIRE_SASL_PASSWORD"].source == "secret file"
    assert listed["RISKWIRE_HTTP_PORT"].source == ""


def test_markdown_does_not_depend_on_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page for the docs shows defaults, wherever it is made."""
    before = pages()["markdown"]
    monkeypatch.setenv("RISKWIRE_PARTITIONS", "12")
    assert pages()["markdown"] == before


def test_the_env_file_gives_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What --env prints can be used as .env: it gives the settings that it was made from."""
    monkeypatch.setenv("RISKWIRE_PARTITIONS", "12")
    monkeypatch.setenv("RISKWIRE_KAFKA_OPTIONS", '{"security.protocol": "ssl"}')
    made = load_settings()
    (tmp_path / ".env").write_text(config_page.env_file(config_page.entries(made)), "utf-8")
    monkeypatch.delenv("RISKWIRE_PARTITIONS")
    monkeypatch.delenv("RISKWIRE_KAFKA_OPTIONS")
    assert load_settings() == made


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wrong variable is named, once and by its own name."""
    monkeypatch.setenv("RISKWIRE_PARTITIONS", "none")
    monkeypatch.setenv("RISKWIRE_HTTP_PORT", "70000")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "RISKWIRE_PARTITIONS" in str(caught.value)
    assert "RISKWIRE_HTTP_PORT" in str(caught.value)
