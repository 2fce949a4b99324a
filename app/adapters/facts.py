"""What `riskwire doctor` wants to know of Redis and of ONNX Runtime, and nobody else.

In: settings. Out: plain values. Raises StoreUnavailable where Redis does not answer, ConfigError
for an address that is none, ModelError where ONNX Runtime is missing.
"""

import importlib
from typing import NamedTuple

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from app.config import Settings
from app.errors import ConfigError, ModelError, StoreUnavailable
from features import profile

SCAN_KEYS = 1_000
SCANS_MAX = 20


class RedisFacts(NamedTuple):
    """`policy` is maxmemory-policy, empty where the server does not say.

    `has_profile` is told from a part of the keys where there are very many.
    """

    version: str
    policy: str
    keys: int
    has_profile: bool


def redis_facts(settings: Settings) -> RedisFacts:
    """Ask the online store."""
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
                _has_profile(client),
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
        return {**client.info("server"), **client.info("memory")}
    except ResponseError:  # not allowed to this user, or not known to this server
        return {}


def _has_profile(client: Redis) -> bool:
    pattern, cursor = profile.key("customer", b"*"), 0
    for _ in range(SCANS_MAX):
        cursor, keys = client.scan(cursor, pattern, SCAN_KEYS)
        if keys:
            return True
        if cursor == 0:
            return False
    return False
