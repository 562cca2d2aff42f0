"""A proxy between S3 clients and an S3 server that injects faults, chosen by a seed.

Faults are error answers, resets, requests without an answer, slow or cut bodies, and writes whose answer gets lost. The
proxy forwards what a client sent byte for byte, including the Host header, so signatures stay valid. The seed, the
method, the key and the number of earlier requests for it decide which request gets which fault. So the same run gets
the same faults, however its threads are scheduled.
"""

import asyncio
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from urllib.parse import unquote, urlsplit

LOOPBACK = "127.0.0.1"
DRIBBLE_EVERY_S = 0.1  # between two bytes of the fault `slow`: a poster takes an hour
HELD_LOOK_EVERY_S = 0.05
HEAD_LIMIT = 1 << 20
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: the peer sees a reset instead of a normal end

ANSWERS = {  # faults that are error answers of S3: status, phrase, code
    "throttled": (429, "Too Many Requests", "SlowDown"),
    "slow_down": (503, "Slow Down", "SlowDown"),
    "internal_error": (500, "Internal Server Error", "InternalError"),
}
READS_ONLY = ("reset_in_body", "short_body", "slow")  # faults that need an answer with a body
WRITES_ONLY = ("lost_answer",)  # the server carries the request out, but the client gets no answer
KINDS = (*ANSWERS, "reset", "hang", *READS_ONLY, *WRITES_ONLY)


@dataclass(frozen=True)
class Faults:
    """The faults that a proxy injects. With no `rate`, `rates` and `always`, the proxy only forwards.

    Rates are probabilities from 0 to 1 that a request gets a fault.
    """

    seed: int = 0
    rate: float = 0.0  # of each kind of fault that fits the request
    rates: Mapping[str, float] = field(default_factory=dict)  # by kind of fault, instead of `rate`
    methods: frozenset[str] | None = None  # methods that can get a fault; None: all
    keys: str = ""  # regular expression: only requests whose /bucket/key contains a match can get a fault
    # Kind of fault by regular expression: every matching request gets it.
    always: Mapping[str, str] = field(default_factory=dict)
    first: int | None = None  # only this number of requests with the same method and target can get a fault; None: all
    held: str = ""  # regular expression: matching requests wait until `faults` is replaced; empty: none wait

    def __post_init__(self) -> None:
        if unknown := {*self.rates, *self.always.values()} - set(KINDS):
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")

    def hold(self, path: str) -> bool:
        """Return True if a request for this path has to wait."""
        return bool(self.held and re.search(self.held, path))

    def of(self, method: str, path: str, earlier: int) -> str | None:
        """Return the fault for a request that was made `earlier` times before, or None."""
        for pattern, kind in self.always.items():
            if re.search(pattern, path) and _fits(kind, method):
                return kind
        chosen = (self.methods is None or method in self.methods) and re.search(self.keys, path)
        if not chosen or (self.first is not None and earlier >= self.first):
            return None
        _, _, key = path.lstrip("/").partition("/")  # the bucket's name differs between runs
        draw = Random(f"{self.seed} {method} {key} {earlier}").random()
        for kind in KINDS:
            draw -= self.rates.get(kind, self.rate) if _fits(kind, method) else 0.0
            if draw < 0:
                return kind
        return None


def _fits(kind: str, method: str) -> bool:
    """Return True if this kind of fault is possible for a request with this method."""
    return not (kind in READS_ONLY and method != "GET") and not (kind in WRITES_ONLY and method in ("GET", "HEAD"))


@contextmanager
def fault_proxy(upstream_url: str, faults: Faults, address: str = LOOPBACK) -> Iterator["FaultProxy"]:
    """Run a proxy in front of `upstream_url` in a thread. The proxy listens on a free port of `address`."""
    proxy = FaultProxy(upstream_url, faults, address)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


class FaultProxy:
    """A running proxy: its `endpoint_url`, and the number of injected faults by kind (`counts`).

    `faults` may be replaced while the proxy runs. `requests` counts the requests by method.
    """

    def __init__(self, upstream_url: str, faults: Faults, address: str = LOOPBACK) -> None:
        upstream = urlsplit(upstream_url)
        self._address = address
        self._upstream = (upstream.hostname or LOOPBACK, upstream.port or 80)
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()  # by method
        self.endpoint_url = ""
        self._asked: Counter[tuple[str, str]] = Counter()
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def start(self) -> None:
        """Start the proxy and wait until it listens."""
        self._thread.start()
        self._listening.wait()

    def stop(self) -> None:
        """Stop the proxy and close all connections through it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def asked(self, method: str, pattern: str) -> int:
        """Return the number of requests with this method whose target contains a match of the regular expression.

        Percent-encoded characters of the target are decoded first: stores encode different ones.
        """
        found = ((path, count) for (asked, path), count in list(self._asked.items()) if asked == method)
        return sum(count for path, count in found if re.search(pattern, unquote(path)))

    def made(self) -> list[tuple[str, str]]:
        """Return the distinct requests that arrived: pairs of method and target (path and query)."""
        return list(self._asked)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, self._address, 0, limit=HEAD_LIMIT))
        self.endpoint_url = f"http://{self._address}:{server.sockets[0].getsockname()[1]}"
        self._listening.set()
        self._loop.run_forever()
        server.close()
        for task in (tasks := asyncio.all_tasks(self._loop)):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the connection of one client, over one connection to the upstream server."""
        server: _Connection | None = None
        client = _Connection(reader, writer)
        try:
            while (request := await client.read()) is not None:
                method, target = request.start_line.split(b" ")[:2]
                while self.faults.hold(target.decode()):
                    await asyncio.sleep(HELD_LOOK_EVERY_S)
                fault = self._fault_of(method.decode(), target.decode())
                if fault in ANSWERS:
                    await client.write(_answer(method, *ANSWERS[fault]))
                    continue
                if fault == "reset":
                    return client.reset()
                if fault == "hang":
                    return await client.wait_for_end()
                server = server or _Connection(*await asyncio.open_connection(*self._upstream, limit=HEAD_LIMIT))
                await server.write(request.head + request.body)
                answer = await server.read(answers=method)
                if answer is None or not await client.pass_on(answer, fault):
                    return None
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client or the server closed the connection, or the proxy stops
        finally:
            for connection in filter(None, (client, server)):
                connection.close()

    def _fault_of(self, method: str, target: str) -> str | None:
        path = unquote(urlsplit(target).path)
        self.requests[method] += 1
        fault = self.faults.of(method, path, self._asked[method, target])
        self._asked[method, target] += 1
        if fault:
            self.counts[fault] += 1
        return fault


@dataclass(frozen=True)
class _Message:
    """An HTTP request or answer, as the bytes that were read."""

    head: bytes
    body: bytes

    @property
    def start_line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, answers: bytes = b"") -> _Message | None:
        """Return the next message, or None at the end of the connection.

        If the message is an answer, `answers` is the method of its request.
        """
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        # Skip `100 Continue`, which the proxy has already sent itself.
        if answers and head.split(b" ")[1].startswith(b"1"):
            return await self.read(answers)
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
        if fields.get(b"expect", b"").strip() == b"100-continue":
            await self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if answers == b"HEAD" or (answers and head.split(b" ")[1] in (b"204", b"304")):
            return _Message(head, b"")
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            return _Message(head, await self._read_chunks())
        return _Message(head, await self._reader.readexactly(int(fields.get(b"content-length", 0))))

    async def _read_chunks(self) -> bytes:
        body = b""
        while True:
            size = await self._reader.readuntil(b"\r\n")
            body += size + await self._reader.readexactly(int(size.split(b";")[0], 16) + 2)
            if int(size.split(b";")[0], 16) == 0:
                return body

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def pass_on(self, answer: _Message, fault: str | None) -> bool:
        """Send an answer to the client, changed by `fault` (None: unchanged).

        Return True if the connection can be used for another request.
        """
        if fault is None or (fault in READS_ONLY and not answer.body):
            await self.write(answer.head + answer.body)
            return True
        if fault == "lost_answer":
            self.reset()
        elif fault == "slow":
            await self.write(answer.head)
            for position in range(len(answer.body)):
                await self.write(answer.body[position : position + 1])
                await asyncio.sleep(DRIBBLE_EVERY_S)
        else:
            await self.write(answer.head + answer.body[: len(answer.body) // 2])
            if fault == "reset_in_body":
                self.reset()
        return False

    async def wait_for_end(self) -> None:
        while await self._reader.read(HEAD_LIMIT):
            pass

    def reset(self) -> None:
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._writer.transport.abort()

    def close(self) -> None:
        with suppress(OSError, RuntimeError):  # RuntimeError: the loop is closed already
            self._writer.close()


def _answer(method: bytes, status: int, phrase: str, code: str) -> bytes:
    xml = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>injected</Message></Error>'
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/xml\r\nContent-Length: {len(xml)}\r\n\r\n"
    return (head if method == b"HEAD" else head + xml).encode()
