"""A server that speaks a little of S3, for what good ones never do: it overwrites whatever it is asked to."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _PoorStore(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # a thread goes with its request, and is not kept by a client that may come again
    objects: dict[str, bytes]
    loses_a_byte: bool

    def do_PUT(self) -> None:
        content = self._content()
        self.objects[self._key] = content[:-1] if self.loses_a_byte else content
        self._answer(200, headers={"ETag": self._etag})

    def do_GET(self) -> None:
        if self._key in self.objects:
            self._answer(200, self.objects[self._key], headers={"ETag": self._etag, "Last-Modified": self._moment})
        else:
            self._answer(404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Delete several objects."""
        for key in re.findall(rb"<Key>(.*?)</Key>", self._content()):
            self.objects.pop(f"{self._key}/{key.decode()}", None)
        self._answer(200, b"<DeleteResult></DeleteResult>")

    @property
    def _key(self) -> str:
        return self.path.partition("?")[0].strip("/")

    @property
    def _etag(self) -> str:
        """Another one as soon as the object is, and no MD5 sum."""
        return f'"{sha1(self.objects[self._key], usedforsecurity=False).hexdigest()}"'

    @property
    def _moment(self) -> str:
        return "Thu, 26 Nov 2026 12:00:00 GMT"

    def _content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: bytes = b"", *, headers: dict[str, str] | None = None) -> None:
        ranged = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        headers = dict(headers or {})
        if ranged and status == 200:
            start, end = int(ranged[1]), min(int(ranged[2]), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            status, content = 206, content[start : end + 1]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def poor_store(*, loses_a_byte: bool = False) -> Iterator[str]:
    """Yield the address of such a server. loses_a_byte: of everything that it is sent."""
    kind = type("_Store", (_PoorStore,), {"objects": {}, "loses_a_byte": loses_a_byte})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
