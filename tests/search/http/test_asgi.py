"""Bodies are read, and answers sent, outside of the threads that work."""

import asyncio
import io
import json
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from django.core.exceptions import RequestDataTooBig

from search.http.asgi.application import MAX_WAITING, BufferedApplication

pytestmark = pytest.mark.anyio

MAX_BODY = 1000
UPLOAD = "/upload/"
SECONDS = 20


class Client:
    """The other end of one request: what it sends, when it is let, and what it has received."""

    def __init__(self, application: BufferedApplication, path: str = "/", *, headers: Any = (), **scope: Any) -> None:
        self.received: list[dict[str, Any]] = []
        self.asked = 0  # times that the server has wanted more of the body
        self.wants_to_send = False  # the server has something for it
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "http_version": "1.1",
            "scheme": "http",
            "server": ("localhost", 80),
            "client": ("192.0.2.1", 1),
            "headers": list(headers),
        } | scope
        self.task = asyncio.ensure_future(application(scope, self._receive, self._send))

    def sends(self, body: bytes, *, more: bool = False) -> None:
        self._sent.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leaves(self) -> None:
        self._sent.put_nowait({"type": "http.disconnect"})

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        await asyncio.wait_for(self.task, SECONDS)
        start, *bodies = self.received
        return start["status"], dict(start["headers"]), b"".join(message["body"] for message in bodies)

    async def _receive(self) -> dict[str, Any]:
        self.asked += 1
        return await self._sent.get()

    async def _send(self, message: dict[str, Any]) -> None:
        self.wants_to_send = True
        await self.may_read.wait()
        self.received.append(message)


class Application:
    """A WSGI application that answers with what it was asked, when it is let."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.answer: Iterable[bytes] | None = None
        self.file: Any = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.environs.append(environ)
        assert self.may_answer.wait(SECONDS)
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        start_response("200 OK", [("Content-Type", "text/plain")])
        if self.file:
            wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](self.file, 4096)
            return wrapped
        return [body] if self.answer is None else self.answer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def wsgi() -> Iterator[Application]:
    application = Application()
    yield application
    application.may_answer.set()


def over(wsgi: Application, *, threads: int = 1) -> BufferedApplication:
    return BufferedApplication(wsgi, threads=threads, max_body=MAX_BODY, large_bodies=re.compile(UPLOAD))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


async def test_those_who_send_slowly_take_no_thread(wsgi: Application) -> None:
    application = over(wsgi)
    slow = [Client(application) for _ in range(50)]
    for client in slow:
        client.sends(b"a", more=True)
    quick = Client(application)
    quick.sends(b"quick")
    assert (await quick.answer())[2] == b"quick"
    for client in slow:
        client.sends(b"b")
        assert (await client.answer())[2] == b"ab"


async def test_a_head_is_answered_without_the_body(wsgi: Application) -> None:
    wsgi.answer = [b"a ", b"body"]
    client = Client(over(wsgi), method="HEAD")
    client.sends(b"")
    status, _, body = await client.answer()
    assert (status, body) == (200, b"")


async def test_those_who_read_slowly_take_no_thread(wsgi: Application) -> None:
    application = over(wsgi)
    slow, quick = Client(application), Client(application)
    slow.may_read.clear()
    slow.sends(b"slow")
    await until(lambda: len(wsgi.environs) == 1)
    quick.sends(b"quick")
    assert (await quick.answer())[2] == b"quick"
    slow.may_read.set()
    assert (await slow.answer())[2] == b"slow"


def answer_with_a_file(wsgi: Application, size: int) -> io.BytesIO:
    file = io.BytesIO(random.Random(1).randbytes(size))
    wsgi.file = file
    return file


@pytest.mark.parametrize("size", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 2**24])
async def test_a_file_is_sent_whole_and_closed(wsgi: Application, size: int) -> None:
    file = answer_with_a_file(wsgi, size)
    content = file.getvalue()
    client = Client(over(wsgi))
    client.sends(b"")
    assert (await client.answer())[2] == content
    await until(lambda: file.closed)


async def test_of_a_file_a_head_is_answered_without_reading_it(wsgi: Application) -> None:
    file = answer_with_a_file(wsgi, 2**20)
    client = Client(over(wsgi), method="HEAD")
    client.sends(b"")
    assert (await client.answer())[2] == b""
    assert file.closed


async def test_those_who_read_a_long_file_slowly_take_no_thread(wsgi: Application) -> None:
    file = answer_with_a_file(wsgi, 2**24)
    application = over(wsgi)
    slow, quick = Client(application), Client(application)
    slow.may_read.clear()
    slow.sends(b"")
    await until(lambda: slow.wants_to_send)
    wsgi.file = None
    quick.sends(b"quick")
    assert (await quick.answer())[2] == b"quick"
    assert not file.closed
    slow.task.cancel()  # as the server does where the client has left
    await until(lambda: file.closed)


async def test_who_leaves_in_a_long_answer_gives_its_thread_back(wsgi: Application) -> None:
    wsgi.answer = [bytes(2**22)] * 5
    application = over(wsgi)
    gone, next_one = Client(application), Client(application)
    gone.may_read.clear()
    gone.sends(b"")
    await until(lambda: gone.wants_to_send)
    gone.task.cancel()
    wsgi.answer = None
    next_one.sends(b"next")
    assert (await next_one.answer())[2] == b"next"


async def test_who_stops_reading_a_long_answer_is_left(wsgi: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.http.asgi.answer.SILENCE_SECONDS", -10_000)
    wsgi.answer = [bytes(2**22)] * 5
    application = over(wsgi)
    stalled = Client(application)
    stalled.may_read.clear()
    stalled.sends(b"")
    await asyncio.wait_for(stalled.task, SECONDS)
    assert stalled.received == []
    wsgi.answer = None
    monkeypatch.undo()
    quick = Client(application)
    quick.sends(b"quick")
    assert (await quick.answer())[2] == b"quick"


async def test_who_falls_silent_in_its_body_is_answered(wsgi: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.http.asgi.application.SILENCE_SECONDS", 0.01)
    silent = Client(over(wsgi))
    silent.sends(b"a", more=True)
    with pytest.raises(OSError, match="did not come in time"):
        await silent.answer()


async def test_a_body_has_a_deadline_however_steadily_it_trickles(
    wsgi: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.http.asgi.application.BODY_SECONDS", 0.1)
    trickling = Client(over(wsgi))
    while not trickling.task.done():
        trickling.sends(b"a", more=True)
        await asyncio.sleep(0.01)
    with pytest.raises(OSError, match="did not come in time"):
        await trickling.answer()


async def test_who_leaves_while_waiting_is_never_worked_for(wsgi: Application) -> None:
    wsgi.may_answer.clear()
    application = over(wsgi)
    first, gone, last = (Client(application) for _ in range(3))
    first.sends(b"first")
    await until(lambda: len(wsgi.environs) == 1)
    gone.sends(b"gone")
    last.sends(b"last")
    gone.leaves()
    await asyncio.wait_for(gone.task, SECONDS)
    assert gone.received == []
    wsgi.may_answer.set()
    assert [(await client.answer())[2] for client in (first, last)] == [b"first", b"last"]
    assert len(wsgi.environs) == 2


async def test_who_leaves_in_its_body_is_never_worked_for(wsgi: Application) -> None:
    gone = Client(over(wsgi))
    gone.sends(b"a", more=True)
    gone.leaves()
    await asyncio.wait_for(gone.task, SECONDS)
    assert (gone.received, wsgi.environs) == ([], [])


async def test_too_many_who_wait_are_told_to_come_again(wsgi: Application) -> None:
    wsgi.may_answer.clear()
    application = over(wsgi)
    clients = [Client(application) for _ in range(1 + MAX_WAITING)]
    for client in clients:
        client.sends(b"a")
    await until(lambda: len(wsgi.environs) == 1 and all(client.asked == 2 for client in clients[1:]))
    refused = Client(application)
    refused.sends(b"a")
    status, headers, body = await refused.answer()
    assert (status, headers[b"retry-after"]) == (503, b"2")
    assert not json.loads(body)["success"]
    wsgi.may_answer.set()
    assert {(await client.answer())[0] for client in clients} == {200}


async def test_bodies_take_no_more_memory_than_they_may(wsgi: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.http.asgi.application.BUFFER_BYTES", 100)
    application = over(wsgi)
    holder, refused = Client(application), Client(application)
    holder.sends(bytes(90), more=True)
    await until(lambda: holder.asked == 2)
    refused.sends(bytes(20))
    assert (await refused.answer())[0] == 503
    holder.leaves()
    await asyncio.wait_for(holder.task, SECONDS)
    after = Client(application)
    after.sends(bytes(99))
    assert (await after.answer())[0] == 200


async def test_answers_that_are_not_read_take_no_more_memory_than_they_may(
    wsgi: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.http.asgi.application.BUFFER_BYTES", 100)
    application = over(wsgi)
    stalled, refused = Client(application), Client(application)
    stalled.may_read.clear()
    wsgi.answer = [bytes(101)]
    stalled.sends(b"")
    await until(lambda: stalled.wants_to_send)
    refused.sends(b"")
    assert (await refused.answer())[0] == 503
    stalled.may_read.set()
    assert len((await stalled.answer())[2]) == 101


async def test_a_body_that_is_declared_too_long_is_never_asked_for(wsgi: Application) -> None:
    client = Client(over(wsgi), headers=[(b"content-length", b"1001")])
    with pytest.raises(RequestDataTooBig):
        await client.answer()
    assert client.asked == 0
    assert wsgi.environs[0]["CONTENT_LENGTH"] == "1001"


async def test_no_body_is_asked_for_of_a_request_that_is_refused_anyway(wsgi: Application) -> None:
    refusing = BufferedApplication(
        Refusing(),
        threads=1,
        max_body=MAX_BODY,
        large_bodies=re.compile(UPLOAD),
        is_refused=lambda method, path: (method, path) == ("POST", UPLOAD),
    )
    for length in (10, 10 * MAX_BODY):
        client = Client(refusing, UPLOAD, headers=[(b"content-length", b"%d" % length)])
        status, headers, _ = await client.answer()
        assert (status, headers[b"connection"]) == (403, b"close")  # else what asks next on it gets no answer
        assert client.asked == 0


class Refusing:
    """A WSGI application that reads nothing."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"no"]


async def test_a_body_of_no_declared_length_is_read_no_further_than_it_may(wsgi: Application) -> None:
    client = Client(over(wsgi), headers=[(b"transfer-encoding", b"chunked")])
    for _ in range(10):
        client.sends(bytes(400), more=True)
    await client.answer()
    assert client.asked == 3
    assert int(wsgi.environs[0]["CONTENT_LENGTH"]) > MAX_BODY
    assert "HTTP_TRANSFER_ENCODING" not in wsgi.environs[0]


async def test_long_bodies_are_streamed_where_they_may_be_and_leave_a_thread_for_others(wsgi: Application) -> None:
    application = over(wsgi, threads=2)
    uploads = [Client(application, UPLOAD, headers=[(b"content-length", b"3000")]) for _ in range(2)]
    for client in uploads:
        client.sends(b"a" * 1500, more=True)
    await until(lambda: len(wsgi.environs) == 1)
    quick = Client(application)
    quick.sends(b"quick")
    assert (await quick.answer())[2] == b"quick"
    for client in uploads:
        client.sends(b"b" * 1500)
        assert (await client.answer())[2] == b"a" * 1500 + b"b" * 1500


async def test_who_leaves_in_a_streamed_body_gives_its_thread_back(wsgi: Application) -> None:
    application = over(wsgi)
    gone = Client(application, UPLOAD, headers=[(b"content-length", b"3000")])
    gone.sends(b"a" * 1500, more=True)
    gone.leaves()
    with pytest.raises(ConnectionResetError):
        await gone.answer()
    quick = Client(application)
    quick.sends(b"quick")
    assert (await quick.answer())[2] == b"quick"


async def test_the_application_sees_the_request_as_it_came(wsgi: Application) -> None:
    headers = [
        (b"content-type", b"image/png"),
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"x-name", b"\xe9"),
        (b"accept", b"a/b"),
        (b"accept", b"c/d"),
    ]
    client = Client(over(wsgi), "/", headers=headers, raw_path=b"/caf%C3%A9%2Fx", query_string=b"q=%ff&\xff")
    client.sends(b"body")
    assert (await client.answer())[2] == b"body"
    (environ,) = wsgi.environs
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/café/x"
    assert environ["QUERY_STRING"].encode("latin-1") == b"q=%ff&\xff"
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("image/png", "4")
    assert (environ["HTTP_COOKIE"], environ["HTTP_ACCEPT"]) == ("a=1; b=2", "a/b,c/d")
    assert environ["HTTP_X_NAME"].encode("latin-1") == b"\xe9"
    assert environ["REMOTE_ADDR"] == "192.0.2.1"
    assert "HTTP_CONTENT_TYPE" not in environ
