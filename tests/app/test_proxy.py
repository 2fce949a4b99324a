"""The proxy: what passes, what is cut, swallowed, late, slow or held back. Over plain sockets."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from app.chaos.proxy import END_TXN, Proxy, Requests

PRODUCE = 0
LIMIT_S = 10.0


class Echo:
    """Sends back what it gets, and keeps it."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.open = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(client,), daemon=True).start()

    def _echo(self, client: socket.socket) -> None:
        self.open += 1
        with client:
            try:
                while data := client.recv(65_536):
                    self.got.append(data)
                    client.sendall(data)
            except OSError:
                pass
        self.open -= 1

    def close(self) -> None:
        """Accept nobody any more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server that echoes."""
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    """In front of it."""
    proxy = Proxy(echo.address)
    yield proxy
    proxy.close()


def connect(proxy: Proxy) -> socket.socket:
    """A client."""
    return socket.create_connection(("127.0.0.1", proxy.port), LIMIT_S)


def receive(client: socket.socket, size: int) -> bytes:
    """That many bytes."""
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        assert more, "the connection ended"
        data += more
    return data


def until(met: Callable[[], bool]) -> None:
    """Wait for a condition, not for ever."""
    end = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < end
        time.sleep(0.005)


def request(key: int, body: bytes = b"") -> bytes:
    """A Kafka request: length, kind, and what follows."""
    return struct.pack(">ih", 2 + len(body), key) + body


def test_bytes_pass_both_ways_and_an_end_too(proxy: Proxy) -> None:
    """Short ones, and more than a buffer holds; the client's end comes back as the server's."""
    sent = bytes(range(256)) * 4096
    with connect(proxy) as client:
        client.sendall(b"hi")
        assert receive(client, 2) == b"hi"
        threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
        assert receive(client, len(sent)) == sent
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def test_a_cut_resets_what_is_and_what_comes_until_it_is_healed(proxy: Proxy, echo: Echo) -> None:
    """Old connections and new ones; the server's side ends too."""
    with connect(proxy) as client:
        client.sendall(b"hi")
        receive(client, 2)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    until(lambda: echo.open == 0)
    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)
    proxy.heal()
    with connect(proxy) as client:
        client.sendall(b"hi")
        assert receive(client, 2) == b"hi"


def test_a_black_hole_swallows_and_healing_resets_who_lost_something(
    proxy: Proxy, echo: Echo
) -> None:
    """Nothing arrives and nothing fails; one who sent nothing meanwhile goes on."""
    with connect(proxy) as loser, connect(proxy) as other:
        other.sendall(b"hi")
        receive(other, 2)
        proxy.black_hole()
        loser.sendall(b"lost")
        loser.settimeout(0.1)
        with pytest.raises(TimeoutError):
            loser.recv(1)
        proxy.heal()
        loser.settimeout(LIMIT_S)
        with pytest.raises(ConnectionResetError):
            loser.recv(1)
        other.sendall(b"on")
        assert receive(other, 2) == b"on"
    assert b"lost" not in echo.got


def test_delay_and_throttle(proxy: Proxy) -> None:
    """Each direction is late by so much; or so many bytes come in a second."""
    with connect(proxy) as client:
        proxy.delay(0.1)
        began = time.monotonic()
        client.sendall(b"hi")
        receive(client, 2)
        assert time.monotonic() - began >= 0.2
        proxy.heal()
    with connect(proxy) as client:
        proxy.throttle(20_000)
        began = time.monotonic()
        client.sendall(b"x" * 10_000)
        receive(client, 10_000)
        assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("step", [1, 5, 7, 1000])
def test_an_end_txn_is_found_wherever_the_stream_is_cut(step: int) -> None:
    """Every byte passes in order, and each EndTxn request is alone and whole."""
    ends = request(END_TXN, b"first"), request(END_TXN)
    stream = b"".join(
        (request(PRODUCE, bytes(300)), ends[0], request(3), ends[1], request(PRODUCE))
    )
    requests = Requests()
    pieces = [
        piece
        for at in range(0, len(stream), step)
        for piece in requests.cut(stream[at : at + step])
    ]
    assert b"".join(data for data, _ in pieces) == stream
    assert tuple(data for data, is_end in pieces if is_end) == ends


def test_what_is_not_kafka_passes_as_it_is() -> None:
    """Also where its bytes would say something to Kafka."""
    requests, redis = Requests(), b"*1\r\n" + request(END_TXN)
    assert [*requests.cut(b"h"), *requests.cut(redis)] == [(b"h", False), (redis, False)]


def test_a_held_end_txn_waits_and_so_does_what_follows_it(proxy: Proxy, echo: Echo) -> None:
    """Other connections go on; after its release the client gets its answers."""
    proxy.hold_end_txn()
    before, held, after = request(PRODUCE, b"a"), request(END_TXN, b"b"), request(PRODUCE, b"c")
    with connect(proxy) as client, connect(proxy) as other:
        client.sendall(before + held + after)
        assert receive(client, len(before)) == before
        until(lambda: proxy.held == 1)
        other.sendall(held)
        assert receive(other, len(held)) == held, "one was to be held, not two"
        assert b"".join(echo.got) == before + held
        [answer] = proxy.release()
        assert answer[: len(held)] == held
        assert proxy.held == 0
        assert receive(client, len(held + after)) == held + after


@pytest.mark.parametrize("end", ["close", "cut", "hang_up"])
def test_a_held_end_txn_arrives_though_its_sender_is_gone(
    proxy: Proxy, echo: Echo, end: str
) -> None:
    """That is the point: the server's side stays open for it."""
    proxy.hold_end_txn()
    held = request(END_TXN, b"late")
    client = connect(proxy)
    client.sendall(held)
    until(lambda: proxy.held == 1)
    if end == "close":
        client.close()
    else:
        getattr(proxy, end)()
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
    assert not echo.got
    until(lambda: echo.open == 1)
    assert proxy.release() == [held]
    assert echo.got == [held]
    until(lambda: echo.open == 0)
