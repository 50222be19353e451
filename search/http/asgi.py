"""Serves a WSGI application over ASGI: the event loop reads bodies and sends answers, threads only work.

A client that sends or reads slowly costs a connection and what it has sent so far, never a thread.
"""

import asyncio
import io
import json
import logging
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote_to_bytes

from django.core.exceptions import RequestDataTooBig

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Environ = dict[str, Any]
WsgiApplication = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

SILENCE_SECONDS = 10  # between two pieces of a body, or of an answer
BODY_SECONDS = 120  # for a whole body that is buffered
BUFFER_BYTES = 2**28  # of the bodies and answers that are in memory at a time
MAX_WAITING = 100  # requests that wait for a thread
RETRY_AFTER_SECONDS = 2
_FILE_PIECE = 2**16  # bytes of a file that are in memory while it is sent
_ANSWER_BUFFER = 2**23  # bytes of an answer that are kept until its thread is free: all but long lists for staff

logger = logging.getLogger(__name__)


class BufferedApplication:
    """An ASGI application: a WSGI application that runs in threads, so many requests at a time.

    A body of at most max_body bytes is read whole before a thread is taken. A longer one is never read, unless its path
    matches large_bodies: there a thread reads it piece by piece, and at most all threads but one do so.
    A request waits for a thread in a queue of at most MAX_WAITING; one whose client leaves meanwhile is dropped.
    """

    def __init__(
        self, application: WsgiApplication, *, threads: int, max_body: int, large_bodies: re.Pattern[str]
    ) -> None:
        self._application = application
        self._max_body = max_body
        self._large_bodies = large_bodies
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._free = asyncio.Semaphore(threads)
        self._free_for_large = asyncio.Semaphore(max(1, threads - 1))
        self._waiting = 0
        self._buffered = 0  # bytes
        self._said_busy = -60.0  # on the monotonic clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        length = _declared_length(scope)
        if length <= self._max_body:
            await self._serve_buffered(scope, receive, send)
        elif self._large_bodies.fullmatch(scope["path"]):
            async with self._free_for_large:
                body = io.BufferedReader(_LiveBody(receive, asyncio.get_running_loop()), 2**16)
                await self._serve(_environ(scope, body, length), None, send)
        else:
            await self._serve(_environ(scope, _UnreadBody(), length), None, send)

    async def _serve_buffered(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body()
        try:
            await self._read(receive, body)
            if body.client_left:
                return
            if self._buffered > BUFFER_BYTES:
                await self._refuse(send)
                return
            await self._serve(_environ(scope, body.file(), body.size), receive, send)
        finally:
            self._buffered -= body.size

    async def _read(self, receive: Receive, body: "_Body") -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                while not body.is_complete and body.size <= self._max_body and self._buffered <= BUFFER_BYTES:
                    timeout.reschedule(min(deadline, loop.time() + SILENCE_SECONDS))
                    message = await receive()
                    self._buffered += body.take(message)
        except TimeoutError:
            body.broke_off = True

    async def _serve(self, environ: Environ, receive: Receive | None, send: Send) -> None:
        """Answer a request as soon as a thread is free. receive tells when its client leaves; None: not asked."""
        if self._waiting >= MAX_WAITING:
            await self._refuse(send)
            return
        if not await self._take_thread(receive):
            return
        answer = _Answer(send, asyncio.get_running_loop(), has_body=environ["REQUEST_METHOD"] != "HEAD")
        work = asyncio.get_running_loop().run_in_executor(self._pool, answer.make, self._application, environ)
        work.add_done_callback(lambda _: self._free.release())  # not before, even where this task is cancelled
        try:
            await asyncio.shield(work)
            with self._buffering(answer.size):
                await answer.send_rest()
        except TimeoutError:
            logger.info("A client that reads too slowly was hung up on")
        except asyncio.CancelledError:  # the client has left
            answer.stop_sending()
            raise
        finally:
            work.add_done_callback(lambda _: answer.close())

    @contextmanager
    def _buffering(self, size: int) -> Iterator[None]:
        self._buffered += size
        try:
            yield
        finally:
            self._buffered -= size

    async def _take_thread(self, receive: Receive | None) -> bool:
        """Wait for a thread; False: the client has left meanwhile."""
        if not self._free.locked() or receive is None:
            await self._free.acquire()
            return True
        self._waiting += 1
        free, gone = asyncio.ensure_future(self._free.acquire()), asyncio.ensure_future(receive())
        try:
            await asyncio.wait({free, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                return True
        except asyncio.CancelledError:
            self._give_back(free)
            raise
        finally:
            self._waiting -= 1
            gone.cancel()
        self._give_back(free)
        return False

    def _give_back(self, free: "asyncio.Future[Literal[True]]") -> None:
        if free.done():
            self._free.release()
        else:
            free.cancel()

    async def _refuse(self, send: Send) -> None:
        now = time.monotonic()
        if now - self._said_busy > 60:
            self._said_busy = now
            logger.warning(
                "Too busy: %d requests wait for a thread, bodies and answers take %d MB; some are answered 503",
                self._waiting,
                self._buffered // 2**20,
            )
        message = f"The server is busy; try again in {RETRY_AFTER_SECONDS} seconds"
        body = {"success": False, "error": message, "code": "busy"}
        headers = [
            (b"content-type", b"application/json"),
            (b"retry-after", b"%d" % RETRY_AFTER_SECONDS),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


class _Body:
    """A request's body as it comes in."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size = 0  # bytes
        self.is_complete = False
        self.broke_off = False
        self.client_left = False

    def take(self, message: Message) -> int:
        """Add what was received; return its bytes."""
        if message["type"] == "http.disconnect":
            self.is_complete = self.client_left = True
            return 0
        piece = message.get("body", b"")
        self._pieces.append(piece)
        self.size += len(piece)
        self.is_complete = not message.get("more_body", False)
        return len(piece)

    def file(self) -> BinaryIO:
        return _BrokenBody() if self.broke_off else io.BytesIO(b"".join(self._pieces))


class _BrokenBody(io.RawIOBase, BinaryIO):
    """A body that did not come to its end in time."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError("The request's body did not come in time")

    readline = read


class _UnreadBody(io.RawIOBase, BinaryIO):
    """A body that is too long to be read."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise RequestDataTooBig("The request's body is too large")

    readline = read


class _LiveBody(io.RawIOBase):
    """A body that a thread reads while it comes in."""

    def __init__(self, receive: Receive, loop: asyncio.AbstractEventLoop) -> None:
        self._receive = receive
        self._loop = loop
        self._rest = memoryview(b"")
        self._more = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and self._more:
            self._receive_more()
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def _receive_more(self) -> None:
        received = asyncio.run_coroutine_threadsafe(
            asyncio.wait_for(_awaited(self._receive), SILENCE_SECONDS), self._loop
        )
        message = received.result()  # TimeoutError is an OSError, as a reader of a file expects
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("The client has left in the midst of its body")
        self._rest, self._more = memoryview(message.get("body", b"")), message.get("more_body", False)


async def _awaited(receive: Receive) -> Message:
    return await receive()


class _File:
    """An answer that is a file, as PEP 3333's wsgi.file_wrapper is called with it."""

    def __init__(self, file: Any, _block_size: int = 0) -> None:
        self._file = file

    def read(self) -> bytes:
        piece: bytes = self._file.read(_FILE_PIECE)
        return piece

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.read, b"")


class _Answer:
    """A WSGI application's answer. A thread makes it; the event loop sends it, its end when the thread is free.

    Of a file the thread reads the first piece alone, so that whoever reads a long one slowly takes no thread.
    """

    def __init__(self, send: Send, loop: asyncio.AbstractEventLoop, *, has_body: bool) -> None:
        self._send = send
        self._loop = loop
        self._has_body = has_body
        self._start: Message = {}
        self._is_started = False
        self._pieces: list[bytes] = []
        self._rest: _File | None = None
        self._sending: Future[None] | None = None  # what the thread waits for
        self._is_stopped = False
        self.size = 0  # bytes that are not sent yet

    def make(self, application: WsgiApplication, environ: Environ) -> None:
        pieces = application(environ, self._start_response)
        if isinstance(pieces, _File) and self._has_body:
            self._rest = pieces
            self._write(pieces.read())
            return
        with _closing(pieces), suppress(CancelledError):
            for piece in pieces:
                self._write(piece)

    async def send_rest(self) -> None:
        if self._rest and self.size == _FILE_PIECE:
            while piece := await self._loop.run_in_executor(None, self._rest.read):
                await self._send_pieces(more=True)
                self._write(piece)
        await self._send_pieces(more=False)

    def stop_sending(self) -> None:
        """Let the thread go that waits until something is sent."""
        self._is_stopped = True
        if self._sending:
            self._sending.cancel()

    def close(self) -> None:
        """Close what the thread has left open."""
        if self._rest:
            self._loop.run_in_executor(None, self._rest.close)

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._start = {"type": "http.response.start", "status": int(status[:3]), "headers": encoded}
        return self._write

    def _write(self, piece: bytes) -> None:
        if not self._has_body:
            return
        self._pieces.append(piece)
        self.size += len(piece)
        if self.size > _ANSWER_BUFFER:
            self._sending = asyncio.run_coroutine_threadsafe(self._send_pieces(more=True), self._loop)
            if self._is_stopped:
                self._sending.cancel()
            self._sending.result()

    async def _send_pieces(self, *, more: bool) -> None:
        body = b"".join(self._pieces)
        self._pieces, self.size = [], 0
        async with asyncio.timeout(SILENCE_SECONDS + len(body) / 10_000):  # at least 10 KB a second
            if not self._is_started:
                self._is_started = True
                await self._send(self._start)
            await self._send({"type": "http.response.body", "body": body, "more_body": more})


@contextmanager
def _closing(pieces: Iterable[bytes]) -> Iterator[Iterable[bytes]]:
    try:
        yield pieces
    finally:
        if close := getattr(pieces, "close", None):
            close()


def _declared_length(scope: Scope) -> int:
    """Return the length that the head declares, 0 where it declares none: a chunked body's is not known."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def _environ(scope: Scope, body: BinaryIO | io.BufferedReader, length: int) -> Environ:
    """Return the request in the form of PEP 3333. length: bytes of the body, however it was framed."""
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"] or b"/").decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": scope["server"][0],
        "SERVER_PORT": str(scope["server"][1]),
        "REMOTE_ADDR": (scope["client"] or ("",))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": body,
        "wsgi.errors": sys.stderr,
        "wsgi.file_wrapper": _File,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        key = f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}"
        text = value.decode("latin-1")
        glue = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{glue}{text}" if key in environ else text
    environ.pop("HTTP_CONTENT_LENGTH", None)
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    if "HTTP_CONTENT_TYPE" in environ:
        environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE")
    return environ | {"CONTENT_LENGTH": str(length)}
