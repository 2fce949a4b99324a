"""librdkafka's mock cluster, inside the confluent-kafka wheel: Kafka's protocol in memory.

For the demo and for tests of faults in unit-test time. Its limits: 5 MB or 100,000 records a
partition (the oldest go), transactions are accepted but not enforced, CreateTopics is ignored
(`create_topic` works; a topic used without it gets 4 partitions). It ends with the process.
"""

import ctypes as c
import os
from collections.abc import Mapping

from app.adapters import librdkafka as rk
from app.errors import ConfigError

_BROKER = 1
PRODUCE_REQUEST = 0
FETCH_REQUEST = 1


class MockCluster:
    """One broker in this process; `bootstrap` is its address on loopback."""

    kind = "librdkafka's mock cluster"

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        """Start it with topics of these partition counts; raises ConfigError."""
        self._quiet = rk.log_callback(lambda _level, _facility, _text: None)
        conf = rk.configuration({})
        rk.conf_set_log_cb(conf, self._quiet)
        self._client = rk.handle(rk.PRODUCER, conf)
        self._cluster = rk.mock_cluster_new(self._client, _BROKER)
        if not self._cluster:
            rk.destroy(self._client)
            raise ConfigError("librdkafka's mock cluster did not start")
        # By default a group's first assignment waits 3 s for more members, as with a real broker.
        rk.mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.bootstrap: str = rk.mock_cluster_bootstraps(self._cluster).decode()
        for name, partitions in (topics or {}).items():
            self.create_topic(name, partitions)

    @property
    def pid(self) -> int:
        """It runs in this process."""
        return os.getpid()

    def create_topic(self, name: str, partitions: int) -> None:
        """Make a topic; raises ConfigError where it cannot (it is there already)."""
        error = rk.mock_topic_create(self._cluster, name.encode(), partitions, 1)
        if error:
            raise ConfigError(f"mock topic {name}: {rk.err2str(error).decode()}")

    def refuse(self, request: int, *errors: int) -> None:
        """Answer the next requests of that API key with these Kafka error codes, one each."""
        codes = (c.c_int * len(errors))(*errors)
        rk.mock_push_request_errors_array(self._cluster, request, len(errors), codes)

    def delay(self, milliseconds: int) -> None:
        """Take this long for every answer from now on."""
        rk.mock_broker_set_rtt(self._cluster, _BROKER, milliseconds)

    def set_down(self) -> None:
        """Break all connections and accept none."""
        rk.mock_broker_set_down(self._cluster, _BROKER)

    def set_up(self) -> None:
        """Accept connections again."""
        rk.mock_broker_set_up(self._cluster, _BROKER)

    def stop(self) -> None:
        """End it; all its records are gone. May be called twice."""
        cluster, self._cluster = self._cluster, None
        if cluster:
            rk.mock_cluster_destroy(cluster)
            rk.destroy(self._client)
