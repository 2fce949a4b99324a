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
    TcpFakeServer(("127.0.0.1", port)).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
