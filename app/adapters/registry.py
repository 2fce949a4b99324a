"""The schema registry behind `ports.WriterSchemas`; the only module that imports its client.

`resolve` gives writer schemas by id, `register` and `header` the ids that outputs carry. An id is
unknown only if the registry itself says so: everything else that goes wrong (time-out, error page,
another server's 404) is RegistryUnavailable and may pass. A wrong address or a schema that the
registry refuses is a ConfigError. Messages name the address and never the password.

Answers are kept: schemas for good, for an id's schema never changes; "unknown" for half a minute.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from app.config import Settings
from app.errors import ConfigError, RegistryUnavailable

TIMEOUT_S = 2.0
UNKNOWN_S = 30.0
UNKNOWN_IDS_MAX = 65_536
ID_MAX = 2**31 - 1


class SchemaRegistry:
    """One Confluent-compatible schema registry; calls may come from several threads."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare a client; connects at first use. Raises ConfigError on a malformed address."""
        options: dict[str, object] = {
            "url": settings.schema_registry_url,
            "timeout": TIMEOUT_S,
            "max.retries": 0,  # the caller knows when to try again
        }
        if settings.schema_registry_auth is not None:
            options["basic.auth.user.info"] = settings.schema_registry_auth.get_secret_value()
        try:
            self._client = SchemaRegistryClient(options)
        except ValueError as error:
            raise ConfigError(f"RISKWIRE_SCHEMA_REGISTRY_URL or _AUTH is wrong: {error}") from None
        self._clock = clock
        self._unknown_until: dict[int, float] = {}

    async def resolve(self, ids: Sequence[int]) -> dict[int, str | None]:
        """The text of each id's schema, None if there is no such Avro schema.

        Raises RegistryUnavailable; ids that were answered until then need no second request.
        """
        return await asyncio.to_thread(lambda: {each: self._text(each) for each in ids})

    def register(self, subject: str, schema_text: str, *, allowed: bool = False) -> int:
        """The id of a schema under a subject, registered there if it is new and that is allowed.

        Raises ConfigError if it is new and that is not allowed, or the registry refuses it;
        RegistryUnavailable.
        """
        schema = Schema(schema_text, "AVRO")
        with self._translated():
            try:
                return _int(self._client.lookup_schema(subject, schema).schema_id)
            except SchemaRegistryError as error:
                if not _says_unknown(error):
                    raise
            if not allowed:
                raise ConfigError(
                    f"the schema registry has no such schema under {subject}: run"
                    " `riskwire topics apply`, or have it registered"
                )
            return _int(self._client.register_schema(subject, schema))

    def header(self, subject: str, schema_text: str) -> bytes:
        """The five bytes in front of a value of a registered schema; raises as `register`."""
        return b"\x00" + self.register(subject, schema_text).to_bytes(4, "big")

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def _text(self, schema_id: int) -> str | None:
        if not 0 <= schema_id <= ID_MAX or self._clock() < self._unknown_until.get(schema_id, 0.0):
            return None
        with self._translated():
            try:
                schema = self._client.get_schema(schema_id)
            except SchemaRegistryError as error:
                if not _says_unknown(error):
                    raise
                self._remember_unknown(schema_id)
                return None
            if schema.schema_str is None:
                self._client.clear_caches()  # type: ignore[no-untyped-call] # it keeps even this
                raise ValueError("an answer without a schema")
            return str(schema.schema_str) if schema.schema_type in (None, "AVRO") else None

    def _remember_unknown(self, schema_id: int) -> None:
        self._unknown_until.pop(schema_id, None)
        self._unknown_until[schema_id] = self._clock() + UNKNOWN_S
        if len(self._unknown_until) > UNKNOWN_IDS_MAX:
            del self._unknown_until[next(iter(self._unknown_until))]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ConfigError:
            raise
        except SchemaRegistryError as error:
            if error.http_status_code in (409, 422):
                raise ConfigError(f"the schema registry refuses the schema: {error}") from None
            raise RegistryUnavailable(f"the schema registry answers: {error}") from None
        except Exception as error:  # noqa: BLE001 -- the client lets its HTTP library's through
            raise RegistryUnavailable(
                f"the schema registry does not answer: {type(error).__name__}: {error}"
            ) from None


def _says_unknown(error: SchemaRegistryError) -> bool:
    """Whether it is the registry's own 404 (40401 to 40403), no proxy's and no wrong path's."""
    return error.http_status_code == 404 and (error.error_code or 0) // 100 == 404


def _int(schema_id: int | None) -> int:
    if schema_id is None:
        raise ValueError("an answer without an id")
    return schema_id
