"""Riskwire: payments scored for fraud risk while they stream through Kafka.

The way of a micro-batch, one pure file a stage; `pipeline` shows all of it on one screen:

    decode   bytes → columns, and rejects             (writers, avro_plan, decode_twin, currencies)
    enrich   columns + live state → feature matrix    (live, entities; the kernel is in features/)
    score    matrix → probabilities, by the model behind a port
    decide   probabilities → decisions, and reasons for the alerts
    emit     all of it → outbound records             (encode, latency)

Around it: `worker` (composition root), `intake` (the consumer's thread), `ledger` (what may be
committed), `ownership` (the state between memory and Redis; `meta`), `labels` (decode for
outcomes), `align` (who waits for whom in a replay), `batching` (how long a batch waits), `backoff`
(waiting for what is away), `ports` (what is outside, as protocols), `records` (the values between
stages), `errors`, `config`, `metrics`, `logs`, `cli`.

Only `adapters/` imports faust, confluent_kafka, ctypes, redis and onnxruntime (and `bench/lanes/`
and `bench/peers/`); the stages import no client library, no asyncio, no clock.
`tests/test_tidy.py` holds this.
"""
