"""fakeredis' TCP server as a program: `python -m app.demo.redis_fake PORT`, until SIGTERM.

A process of its own, so that it can be killed and restarted like a real Redis and takes no time of
the interpreter that scores. It listens on loopback and has no password.
"""

import logging
import os
import signal
import sys

from fakeredis import TcpFakeServer


def main(port: int) -> None:
    """Serve until a signal comes; what was stored is gone then, and clients see a reset."""
    logging.getLogger("fakeredis").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = TcpFakeServer(("127.0.0.1", port))
    # As Redis does; else the second answer of a pipeline waits 40 ms for the first one's receipt.
    server.RequestHandlerClass.disable_nagle_algorithm = True  # type: ignore[attr-defined]
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
