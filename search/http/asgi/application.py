"""Serves a WSGI application over ASGI: the event loop reads bodies and sends answers, threads only work.

A client that sends or reads slowly costs a connection and what it has sent so far, never a thread.
"""

import asyncio
import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal

from search.http.asgi.answer import Answer
from search.http.asgi.messages import SILENCE_SECONDS, Environ, Message, Receive, Scope, Send, WsgiApplication
from search.http.asgi.request import Body, LiveBody, UnreadBody, declared_length, wsgi_environ

BODY_SECONDS = 120  # for a whole body that is buffered
BUFFER_BYTES = 2**28  # of the bodies and answers that are in memory at a time
MAX_WAITING = 100  # requests that wait for a thread
RETRY_AFTER_SECONDS = 2

logger = logging.getLogger(__name__)


class BufferedApplication:
    """An ASGI application: a WSGI application that runs in threads, so many requests at a time.

    A body of at most max_body bytes is read whole before a thread is taken. A longer one is never read, unless its path
    matches large_bodies: there a thread reads it piece by piece, and at most all threads but one do so.
    Of a request that the application refuses anyway, as is_refused(method, path) tells, no body is read.
    A request waits for a thread in a queue of at most MAX_WAITING; one whose client leaves meanwhile is dropped.
    """

    def __init__(
        self,
        application: WsgiApplication,
        *,
        threads: int,
        max_body: int,
        large_bodies: re.Pattern[str],
        is_refused: Callable[[str, str], bool] = lambda method, path: False,
    ) -> None:
        self._application = application
        self._max_body = max_body
        self._large_bodies = large_bodies
        self._is_refused = is_refused
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
        length = declared_length(scope)
        if self._is_refused(scope["method"], scope["path"]):
            await self._serve(wsgi_environ(scope, UnreadBody(), length), None, _telling_of_end(send))
        elif length <= self._max_body:
            await self._serve_buffered(scope, receive, send)
        elif self._large_bodies.fullmatch(scope["path"]):
            async with self._free_for_large:
                body = io.BufferedReader(LiveBody(receive, asyncio.get_running_loop()), 2**16)
                await self._serve(wsgi_environ(scope, body, length), None, _telling_of_end(send))
        else:
            await self._serve(wsgi_environ(scope, UnreadBody(), length), None, _telling_of_end(send))

    async def _serve_buffered(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = Body()
        try:
            await self._read(receive, body)
            if body.client_left:
                return
            if self._buffered > BUFFER_BYTES:
                await self._refuse(send)
                return
            await self._serve(wsgi_environ(scope, body.file(), body.size), receive, send)
        finally:
            self._buffered -= body.size

    async def _read(self, receive: Receive, body: Body) -> None:
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
        answer = Answer(send, asyncio.get_running_loop(), has_body=environ["REQUEST_METHOD"] != "HEAD")
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


def _telling_of_end(send: Send) -> Send:
    """Return what sends an answer that may come before the body: the server then closes the connection.

    It does not say so itself, and a client or proxy that took it for kept would lose its next request.
    """

    async def send_telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return send_telling
