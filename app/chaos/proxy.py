"""A TCP proxy on loopback that breaks what passes through it, for Kafka, Redis or any server.

It cuts, swallows, delays and throttles. Of Kafka's requests it knows one: it can hold an EndTxn
back, and let it go to the broker when its sender has long gone on (KAFKA-17754). For that the
broker must advertise the proxy's port. One thread runs everything; the methods may be called from
any other, and what they order holds when they return.
"""

import asyncio
import math
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

END_TXN = 26
_CHUNK_BYTES = 65_536
_QUEUE_CHUNKS = 256
_FIRST_BYTE_MAX = 6
"""Of a Kafka request's length: a longer one than 117 MB no broker takes."""
_STEPS_PER_S = 20
_CALL_S = 10.0
_RESET = struct.pack("ii", 1, 0)
T = TypeVar("T")


class Requests:
    """Kafka's requests in what a client sends; a stream that is none of Kafka's passes as it is."""

    def __init__(self) -> None:
        """At the beginning of a stream."""
        self._rest: float = 0
        self._begun = b""

    def cut(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """All that can be passed on, each EndTxn request alone and whole, and told by True."""
        data, self._begun = self._begun + data, b""
        while data:
            if not self._rest and data[0] > _FIRST_BYTE_MAX:
                self._rest = math.inf
            if not self._rest:
                if len(data) < 6:  # its length and its kind
                    break
                length, key = struct.unpack(">iH", data[:6])
                if key != END_TXN:
                    self._rest = 4 + length
                elif len(data) < 4 + length:
                    break
                else:
                    yield data[: 4 + length], True
                    data = data[4 + length :]
                    continue
            size = int(min(self._rest, len(data)))
            yield data[:size], False
            self._rest -= size
            data = data[size:]
        self._begun = data


class _Link:
    """One client's connection, and ours to the server on its behalf."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.lost_some = False
        self.held: asyncio.Event | None = None
        """Set by `release`; None while nothing is held."""
        self.answer: asyncio.Future[bytes] | None = None
        """What the server says to a request that was held."""

    def reset(self) -> None:
        """End it the hard way; what is held keeps the server's side open."""
        _reset(self.client)
        if self.held is None:
            _reset(self.server)

    def answered(self, data: bytes) -> None:
        if self.answer is not None and self.held is None and not self.answer.done():
            self.answer.set_result(data)


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class Proxy:
    """Clients connect to `port` of 127.0.0.1 and reach `upstream`, or what is left of it."""

    def __init__(self, upstream: tuple[str, int], port: int = 0) -> None:
        """Listens at once, on any free port if 0; raises OSError where the port is taken."""
        self._upstream = upstream
        self._links: set[_Link] = set()
        self._is_cut = self._is_black = False
        self._delay_s, self._bytes_per_s = 0.0, math.inf
        self._to_hold = 0
        listening = socket.create_server(("127.0.0.1", port))
        self.port: int = listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="riskwire-proxy", daemon=True
        )
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, sock=listening))

    @property
    def held(self) -> int:
        """How many EndTxn requests are held back now."""
        return sum(link.held is not None for link in list(self._links))

    def cut(self) -> None:
        """Reset all connections, and new ones too until `heal`."""
        self._do(self._set(_is_cut=True))

    def black_hole(self) -> None:
        """Accept connections and bytes, and pass nothing on in either direction until `heal`."""
        self._do(self._set(_is_black=True))

    def delay(self, seconds: float) -> None:
        """Pass everything on that much later, in each direction."""
        self._do(self._set(_delay_s=seconds))

    def throttle(self, bytes_per_s: float) -> None:
        """Pass on no more than that of each connection, in each direction."""
        self._do(self._set(_bytes_per_s=bytes_per_s))

    def hold_end_txn(self, count: int = 1) -> None:
        """Hold back the next `count` EndTxn requests, and what follows on their connections."""
        self._do(self._set(_to_hold=count))

    def heal(self) -> None:
        """Pass everything on again; what is held stays so until `release`.

        Connections of which something was swallowed are reset, as by a router that forgot them.
        """
        self._do(
            self._set(
                _is_cut=False, _is_black=False, _delay_s=0.0, _bytes_per_s=math.inf, _to_hold=0
            )
        )

    def release(self, timeout_s: float = 5.0) -> list[bytes]:
        """Let the held requests go, whether their senders wait for them or not.

        Returns what the server answered to each, b"" where it did not in time.
        """
        return self._do(self._release(timeout_s), timeout_s + _CALL_S)

    def hang_up(self) -> None:
        """Reset the senders of what is held; their requests stay held."""
        self._do(self._hang_up())

    def close(self) -> None:
        """Reset all connections and listen no more."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T], timeout_s: float = _CALL_S) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    async def _set(self, **values: float) -> None:
        vars(self).update(values)
        for link in list(self._links):
            if self._is_cut or (link.lost_some and not self._is_black):
                link.reset()

    async def _hang_up(self) -> None:
        for link in self._links:
            if link.held is not None:
                link.reset()

    async def _release(self, timeout_s: float) -> list[bytes]:
        links = [link for link in self._links if link.held is not None]
        answers = []
        for link in links:
            link.answer = self._loop.create_future()
            answers.append(link.answer)
            assert link.held is not None  # noqa: S101 -- chosen so
            link.held.set()
            link.held = None
        if answers:
            await asyncio.wait(answers, timeout=timeout_s)
        return [answer.result() if answer.done() else b"" for answer in answers]

    async def _close(self) -> None:
        self._server.close()
        for link in self._links:
            link.held = None
            link.reset()
        pumps = asyncio.all_tasks() - {asyncio.current_task()}
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._is_cut:
            _reset(client)
            return
        try:
            from_server, server = await asyncio.open_connection(*self._upstream)
        except OSError:
            _reset(client)
            return
        link = _Link(client, server)
        self._links.add(link)
        upwards = asyncio.create_task(self._to_server(reader, link))
        try:
            await self._pump(from_server, link, partial(self._to_client, link))
        finally:
            upwards.cancel()
            link.answered(b"")
            for writer in (client, server):
                writer.close()
            self._links.discard(link)

    async def _to_server(self, reader: asyncio.StreamReader, link: _Link) -> None:
        requests = Requests()

        async def pass_on(data: bytes) -> None:
            for piece, ends in requests.cut(data):
                if ends and self._to_hold:
                    self._to_hold -= 1
                    link.held = released = asyncio.Event()
                    await released.wait()
                link.server.write(piece)
            await link.server.drain()

        with suppress(OSError):
            await self._pump(reader, link, pass_on)
            if link.answer is not None:
                await asyncio.wait([link.answer])
            link.server.write_eof()

    async def _to_client(self, link: _Link, data: bytes) -> None:
        link.answered(data)
        if link.client.is_closing():
            return  # a client that is gone is nothing to a request that is held
        with suppress(OSError):
            link.client.write(data)
            await link.client.drain()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        link: _Link,
        pass_on: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Pass on what comes, when it may be, to its end."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE_CHUNKS)
        reading = asyncio.create_task(self._read(reader, queue))
        try:
            while True:
                due_s, data = await queue.get()
                await asyncio.sleep(due_s - self._loop.time())
                if not data:
                    return
                if self._is_black:
                    link.lost_some = True
                    continue
                await pass_on(data)
                await asyncio.sleep(len(data) / self._bytes_per_s)
        finally:
            reading.cancel()

    async def _read(
        self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        data = b"begin"
        while data:
            size = min(_CHUNK_BYTES, 1 + self._bytes_per_s / _STEPS_PER_S)
            try:
                data = await reader.read(int(size))
            except OSError:  # a reset is an end
                data = b""
            await queue.put((self._loop.time() + self._delay_s, data))
