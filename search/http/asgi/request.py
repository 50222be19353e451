"""A request over ASGI as a WSGI application reads it."""

import asyncio
import io
import sys
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from django.core.exceptions import RequestDataTooBig

from search.http.asgi.answer import File
from search.http.asgi.messages import SILENCE_SECONDS, Environ, Message, Receive, Scope


def declared_length(scope: Scope) -> int:
    """Return the length that the head declares, 0 where it declares none: a chunked body's is not known."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def wsgi_environ(scope: Scope, body: BinaryIO | io.BufferedReader, length: int) -> Environ:
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
        "wsgi.file_wrapper": File,
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


class Body:
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


class UnreadBody(io.RawIOBase, BinaryIO):
    """A body that is too long to be read."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise RequestDataTooBig("The request's body is too large")

    readline = read


class LiveBody(io.RawIOBase):
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
