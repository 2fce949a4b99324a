"""What a cluster needs before its first worker: topics, and schemas in a registry if there is one.

In: settings. Out: what was done, as `Change`s; running it again changes nothing. Workers and
producers only look schemas up, so that no typing error becomes a new version of a contract. Errors
are those of `app.adapters.topics` and `app.adapters.registry`.
"""

from collections.abc import Iterator

import schemas
from app.adapters.registry import SchemaRegistry
from app.adapters.topics import Change, apply_topics
from app.config import Settings


def apply(settings: Settings) -> list[Change]:
    """Make the topics as the settings want them, and register the schemas of their values."""
    changes = apply_topics(settings)
    if settings.schema_registry_url:
        registry = SchemaRegistry(settings)
        for subject, text in subjects(settings):
            schema_id = registry.register(subject, text, allowed=True)
            changes.append(Change(subject, "registered", f"schema id {schema_id}"))
    return changes


def subjects(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each subject by TopicNameStrategy, and the text of its schema; dead letters are any bytes."""
    yield f"{settings.topic('transactions')}-value", schemas.load("transaction").text
    yield f"{settings.topic('labels')}-value", schemas.load("fraud_label").text
    yield f"{settings.topic('scores')}-value", schemas.load("risk_score").text
    yield f"{settings.topic('alerts')}-value", schemas.load("risk_alert").text
