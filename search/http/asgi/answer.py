"""A WSGI application's answer, sent over ASGI."""

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from typing import Any

from search.http.asgi.messages import SILENCE_SECONDS, Environ, Message, Send, WsgiApplication

_FILE_PIECE = 2**16  # bytes of a file that are in memory while it is sent
_ANSWER_BUFFER = 2**23  # bytes of an answer that are kept until its thread is free: all but long lists for staff


class File:
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


class Answer:
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
        self._rest: File | None = None
        self._sending: Future[None] | None = None  # what the thread waits for
        self._is_stopped = False
        self.size = 0  # bytes that are not sent yet

    def make(self, application: WsgiApplication, environ: Environ) -> None:
        pieces = application(environ, self._start_response)
        if isinstance(pieces, File) and self._has_body:
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
