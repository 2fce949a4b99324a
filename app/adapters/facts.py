"""What `riskwire doctor` wants to know of Redis and of ONNX Runtime, and nobody else.

In: settings. Out: plain values. Raises StoreUnavailable where Redis does not answer, ConfigError
for an address that is none, ModelError where ONNX Runtime is missing.
"""

import importlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from app.config import Settings
from app.errors import ConfigError, ModelError, StoreUnavailable
from app.meta import Meta
from features.blob import meta_key

SCAN_KEYS = 1_000
SCANS_MAX = 20
_CONTRACT = re.compile(rb"rw:\{p\d+\}:([0-9a-f]+):")


class RedisFacts(NamedTuple):
    """`policy` is maxmemory-policy, empty where the server does not say, as `aof` is None then.

    `metas` says by partition what is there of the contract asked for. `contracts` are the ids that
    there is any state of, told from a part of the keys where there are very many.
    """

    version: str
    policy: str
    keys: int
    metas: Mapping[int, Meta]
    contracts: frozenset[str]
    aof: bool | None = None


def redis_facts(settings: Settings, contract_id: str) -> RedisFacts:
    """Ask the online store; it is asked for the partitions that the settings count."""
    timeout_s = settings.redis_timeout_ms / 1000
    try:
        client = Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        )
    except ValueError as error:
        raise ConfigError(f"RISKWIRE_REDIS_URL is no address of a Redis: {error}") from None
    try:
        with client:
            info = _info(client)
            return RedisFacts(
                str(info.get("redis_version", "?")),
                str(info.get("maxmemory_policy", "")),
                int(client.dbsize()),
                _metas(client, contract_id, settings.partitions),
                _contracts(client),
                bool(info["aof_enabled"]) if "aof_enabled" in info else None,
            )
    except (RedisError, OSError) as error:
        cause = str(error) or type(error).__name__
        raise StoreUnavailable(f"Redis does not answer: {cause}") from None


def onnx_providers() -> list[str]:
    """Return the providers that the installed ONNX Runtime has."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ModelError(f"ONNX Runtime does not load: {error}") from None
    return list(runtime.get_available_providers())


def _info(client: Redis) -> dict[str, object]:
    try:
        parts = [client.info(part) for part in ("server", "memory", "persistence")]
        return {name: value for part in parts for name, value in part.items()}
    except ResponseError:  # not allowed to this user, or not known to this server
        return {}


def _metas(client: Redis, contract_id: str, partitions: int) -> dict[int, Meta]:
    with client.pipeline(transaction=False) as pipe:
        for partition in range(partitions):
            pipe.get(meta_key(contract_id, partition))
        found = [Meta.parse(value) for value in pipe.execute()]
    return {partition: meta for partition, meta in enumerate(found) if meta is not None}


def _contracts(client: Redis) -> frozenset[str]:
    found, cursor = set(), 0
    for _ in range(SCANS_MAX):
        cursor, keys = client.scan(cursor, b"rw:{p*}:*", SCAN_KEYS)
        names = (key for key in keys if isinstance(key, bytes))
        found |= {match[1].decode() for match in map(_CONTRACT.match, names) if match}
        if cursor == 0:
            break
    return frozenset(found)
