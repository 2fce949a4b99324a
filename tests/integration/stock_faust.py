"""A stock Faust app with `exactly_once` on aiokafka: what Riskwire does not build on; a program.

Reads transactions and sends one score for each, of the schema that the checker reads. Arguments:
bootstrap, application id, topic of transactions, topic of scores, partitions, id of the model, a
directory of its own.
"""

import io
import sys
import time
from typing import Any

import fastavro
import faust

import schemas
from features.contract import CONTRACT_ID

bootstrap, name, transactions, scores, partitions, model_id, datadir = sys.argv[1:]
READER, WRITER = schemas.load("transaction"), schemas.load("risk_score")

app = faust.App(
    name,
    broker=f"aiokafka://{bootstrap}",
    processing_guarantee="exactly_once",
    store="memory://",
    datadir=datadir,
    web_enabled=False,
    topic_allow_declare=False,
    topic_disable_leader=True,
    topic_partitions=int(partitions),
    value_serializer="raw",
    key_serializer="raw",
    broker_session_timeout=6.0,
    broker_heartbeat_interval=1.0,
)
SOURCE = app.topic(transactions, value_type=bytes, key_type=bytes)
SINK = app.topic(scores, value_type=bytes, key_type=bytes)


@app.agent(SOURCE)
async def score(stream: Any) -> None:
    """One score for each transaction, to its partition."""
    async for event in stream.events():
        message = event.message
        body = io.BytesIO(event.value[10:])
        its: Any = fastavro.schemaless_reader(body, schemas.without_logical_types(READER.text))
        now_us = time.time_ns() // 1000
        instants = dict.fromkeys(("polled", "decoded", "enriched", "scored", "emitted"), now_us)
        latency = {
            "event_time": its["event_time"],
            "append_time": int(1e6 * message.timestamp + 0.5) // 1000 * 1000,
            "append_time_type": "LOG_APPEND_TIME",
            **instants,
        }
        record = {
            "transaction_id": its["transaction_id"],
            "customer_id": its["customer_id"],
            "source_partition": message.partition,
            "source_offset": message.offset,
            "score": 0.0,
            "decision": "APPROVE",
            "model_id": model_id,
            "feature_contract_id": CONTRACT_ID,
            "degraded": True,
            "provisional": True,
            "provider": "CPUExecutionProvider",
            "vector_hash": bytes(8),
            "latency": latency,
        }
        out = io.BytesIO(WRITER.single_object_header)
        out.seek(0, io.SEEK_END)
        fastavro.schemaless_writer(out, schemas.without_logical_types(WRITER.text), record)
        await SINK.send(key=event.key, value=out.getvalue(), partition=message.partition)


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "worker", "--without-web", "--loglevel", "warn"]
    app.main()
