"""Settings: one frozen object, from the environment, secret files and .env.

Every field is `RISKWIRE_<NAME>`; `riskwire config` prints this page with what is set. A secret may
also be a file of that name in /run/secrets (or RISKWIRE_SECRETS_DIR). Limits are asserted against
each other here, where they are defined.
"""

import os
import socket
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import ConfigError

PREFIX = "RISKWIRE_"


class Settings(BaseSettings):
    """All settings of a worker and of the command line."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True
    )

    bootstrap_servers: str = Field(
        "127.0.0.1:9092", description="Kafka brokers, host:port, comma separated."
    )
    group_id: str = Field("riskwire", description="Consumer group of the workers.")
    transport: Literal["native", "objects"] = Field(
        "native", description="Kafka client: librdkafka's C API, or confluent-kafka objects."
    )
    kafka_options: dict[str, str] = Field(
        {},
        description="JSON of librdkafka options for consumer, producer and admin "
        "(security.protocol, sasl.*, ...).",
    )
    consumer_options: dict[str, str] = Field(
        {}, description="JSON of librdkafka options for the consumer only."
    )
    producer_options: dict[str, str] = Field(
        {}, description="JSON of librdkafka options for the producer only."
    )
    sasl_password: SecretStr | None = Field(None, description="librdkafka sasl.password; secret.")

    delivery: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once",
        description="exactly_once: outputs and offsets in one Kafka transaction; at_least_once: "
        "offsets after outputs, a little cheaper, and the only one on a mock cluster.",
    )

    topic_prefix: str = Field("", description="Put in front of every topic name.")
    topic_transactions: str = Field("transactions", description="Input topic.")
    topic_labels: str = Field("labels", description="Topic of outcomes.")
    topic_scores: str = Field(
        "scores", description="Output: one score for each accepted transaction."
    )
    topic_alerts: str = Field("alerts", description="Output: transactions that want attention.")
    topic_dead_letters: str = Field(
        "dead-letters", description="Output: records that could not be scored."
    )
    topic_watermarks: str = Field(
        "watermarks", description="Internal: up to when logs are complete that are quiet."
    )
    topic_replays: str = Field(
        "replays", description="Internal: which dead letters `riskwire dlq replay` has sent again."
    )
    partitions: int = Field(4, ge=1, le=10_000, description="Partitions of each topic.")
    replication: int = Field(
        1, ge=1, le=7, description="Replication factor that `topics apply` gives each topic."
    )

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Online store, redis://, rediss:// or unix://; may carry a password.",
    )
    redis_timeout_ms: int = Field(
        1000, ge=1, description="Longest wait for one reply of Redis before it counts as away."
    )
    redis_away: Literal["hold", "degrade"] = Field(
        "hold",
        description="hold: scoring waits until Redis answers. degrade: what is not in memory takes "
        "the features' defaults and the score says so; new partitions wait all the same. Replays "
        "(RISKWIRE_ALIGNMENT=wait) always hold.",
    )
    degrade_after_ms: int = Field(
        200, ge=1, le=60_000, description="With degrade: longest wait for Redis before that."
    )
    schema_registry_url: str = Field(
        "", description="Confluent-compatible schema registry; empty: Avro single-object encoding."
    )
    schema_registry_auth: SecretStr | None = Field(
        None, description="user:password for the registry; secret."
    )

    model: Path | None = Field(
        None, description="Directory with scorer.onnx and scorer.json; empty: the shipped model."
    )
    providers: str = Field(
        "auto",
        description="ONNX Runtime providers in order, "
        "e.g. CUDAExecutionProvider,CPUExecutionProvider; auto: the best that is there.",
    )
    scores_carry_features: bool = Field(
        default=False, description="Every score carries its feature vector, as alerts do."
    )

    batch_records_max: int = Field(
        2048, ge=1, le=65_536, description="Most records in a micro-batch."
    )
    linger_ms_max: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Longest wait for a fuller micro-batch under load. Unset: 6 with exactly_once, "
        "whose outputs wait for their transaction anyway, 3 with at_least_once.",
    )
    queue_batches_max: int = Field(
        4,
        ge=1,
        le=64,
        description="Micro-batches that may wait between the consumer thread and the pipeline.",
    )
    queue_bytes_max: int = Field(
        33_554_432,
        ge=1_048_576,
        le=1_073_741_824,
        description="Bytes of keys, values and headers in those micro-batches, each of which ends "
        "at its share; and in librdkafka's fetch queue before them.",
    )
    inflight_records_max: int = Field(
        200_000, ge=1000, description="Outbound records that may wait for acknowledgement."
    )
    inflight_bytes_max: int = Field(
        67_108_864,
        ge=1_048_576,
        le=1_073_741_824,
        description="Bytes of outbound records, and of what they are made of, that may wait for "
        "it; in transactions as many again.",
    )
    shed_after_ms: int = Field(
        0,
        ge=0,
        le=3_600_000,
        description="Age of the oldest unscored record from which terminals' features are left "
        "out, and twice that from which no model runs; the score says so (shed). 0: never; nor in "
        "replays (RISKWIRE_ALIGNMENT=wait).",
    )
    shed_amount_minor: int = Field(
        22_000,
        ge=0,
        description="Where no model runs: amounts of so many minor units and more are for review.",
    )
    commit_interval_ms: int = Field(
        100, ge=1, le=60_000, description="Time between offset commits."
    )
    drain_timeout_s: float = Field(
        2.0, gt=0, le=60, description="Time to finish work in hand on stop."
    )

    worker_id: str = Field(
        "", description="Name of this worker, stable over restarts; empty: the host's name."
    )
    static_membership: bool = Field(
        default=False,
        description="A worker that is back within the session time-out finds its partitions as it "
        "left them; one that is gone for good is missed only then. RISKWIRE_WORKER_ID must differ.",
    )
    state_customers_max: int = Field(
        65_536, ge=4096, description="Customers kept in the worker's memory."
    )
    state_shares_max: int = Field(
        262_144,
        ge=4096,
        description="Shares of terminals kept in memory: terminals times partitions.",
    )
    state_namespace: str = Field(
        "",
        pattern=r"^[a-zA-Z0-9._-]{0,64}$",
        description="Tells deployments apart that share a Redis; part of every key.",
    )
    state_flush_ms: int = Field(
        2000, ge=10, le=60_000, description="Time between writes of changed state to Redis."
    )
    snapshot_dir: Path | None = Field(
        None,
        description="Directory of state snapshots, shared by all workers; a worker whose Redis has"
        " lost a partition's state restores the newest that fits. Empty: none are kept.",
    )
    snapshot_every_s: int = Field(
        3600,
        ge=0,
        description="Time between snapshots that a worker takes of its partitions into"
        " RISKWIRE_SNAPSHOT_DIR; 0: it takes none.",
    )
    alignment: Literal["mark", "wait"] = Field(
        "mark",
        description="A score whose inputs may still be on their way: mark it provisional, or wait "
        "for them (replays).",
    )

    reject_share_max: float = Field(
        0.75,
        gt=0,
        le=1,
        description="More rejects than that in a minute pause the topic's intake; 1: never.",
    )
    reject_records_min: int = Field(
        1000, ge=1, description="Records in a minute from which on that share counts."
    )
    breaker_pause_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Pause until one batch is tried; doubled while that is rejected.",
    )

    value_bytes_max: int = Field(
        16_384, ge=64, le=1_000_000, description="Longest value of a transaction."
    )
    headers_max: int = Field(32, ge=0, description="Most headers of a transaction.")
    header_bytes_max: int = Field(
        8192, ge=0, description="Most bytes in the headers of a transaction."
    )
    future_s_max: int = Field(
        300, ge=0, description="How far event_time may lie after the record's append time."
    )
    message_bytes_max: int = Field(
        4_194_304,
        ge=65_536,
        description="max.message.bytes of the dead-letter topic "
        "and message.max.bytes of the producer.",
    )

    http_host: str = Field("127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    http_port: int = Field(8080, ge=0, le=65_535, description="Its port; 0: any free one.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console on a terminal, JSON otherwise."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe level that is logged."
    )

    @field_validator("model", "snapshot_dir", mode="before")
    @classmethod
    def _directory(cls, value: object) -> object:
        return value or None  # set to nothing is not the working directory

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.inflight_records_max < 3 * self.batch_records_max:
            raise ValueError(
                "RISKWIRE_INFLIGHT_RECORDS_MAX must be at least 3 times RISKWIRE_BATCH_RECORDS_MAX"
            )
        if self.state_customers_max < self.batch_records_max:
            raise ValueError(
                "RISKWIRE_STATE_CUSTOMERS_MAX must be at least RISKWIRE_BATCH_RECORDS_MAX"
            )
        if self.state_shares_max < self.batch_records_max * self.partitions:
            raise ValueError(
                "RISKWIRE_STATE_SHARES_MAX must be at least RISKWIRE_BATCH_RECORDS_MAX times"
                " RISKWIRE_PARTITIONS"
            )
        return self

    def topic(
        self,
        role: Literal[
            "transactions", "labels", "scores", "alerts", "dead_letters", "watermarks", "replays"
        ],
    ) -> str:
        """Full name of a topic."""
        name: str = getattr(self, f"topic_{role}")
        return self.topic_prefix + name

    @property
    def source(self) -> str:
        """Whose logs are in the state, as `Meta.source` says it."""
        return f"group {self.group_id}, topic {self.topic('transactions')}"

    def worker_name(self) -> str:
        """`worker_id`, or the host's name."""
        return self.worker_id or socket.gethostname()

    def linger_ms(self) -> int:
        """`linger_ms_max`, or what suits the guarantee."""
        if self.linger_ms_max is not None:
            return self.linger_ms_max
        return 6 if self.delivery == "exactly_once" else 3

    def client_options(self) -> dict[str, str]:
        """Options of librdkafka that every client of ours shares."""
        options = {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": "riskwire",
            **self.kafka_options,
        }
        if self.sasl_password is not None:
            options["sasl.password"] = self.sasl_password.get_secret_value()
        return options


def load_settings(**overrides: object) -> Settings:
    """Read the settings; raises ConfigError that names each wrong variable."""
    secrets = Path(os.environ.get(PREFIX + "SECRETS_DIR", "/run/secrets"))
    values: dict[str, Any] = {"_secrets_dir": secrets if secrets.is_dir() else None, **overrides}
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = "\n".join(
            f"  {PREFIX}{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(f"these settings are wrong (see `riskwire config`):\n{lines}") from None
