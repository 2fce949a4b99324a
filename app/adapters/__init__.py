"""Everything foreign, behind `app.ports`.

Only these modules import the clients of Kafka, Faust, Redis or ONNX.
"""

import os

# ONNX Runtime would report its use to its maker; what decides about payments talks to nobody
# unasked.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
