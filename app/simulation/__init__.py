"""The worker's own code over a simulated Kafka, Redis and clock, from one seed.

`world` is the clock and the scheduler: every thread is a greenlet, one runs at a time, and the seed
says which. `concurrency` stands in for `threading`, `time` and an event loop. `kafka`, `group` and
`clients` are the broker and what a worker sees of it, `store` is Redis. `data` are the logs,
`workers` builds workers as `app.wiring` does, `faults` breaks things, `laws` says what must hold,
`run` is one seed from begin to end. Needs the package `greenlet`.
"""
