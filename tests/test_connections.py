"""Connections that send nothing, or next to nothing, to the server as it is started in production."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tenants.models import Company
from tests.conftest import paint
from tests.support.fakes import BLUE, RED
from tests.support.gunicorn_conf import WORKER_CONNECTIONS
from tests.support.processes import Site
from tests.support.servers import Gunicorn

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]


@pytest.fixture
def server(site: Site) -> Iterator[Gunicorn]:
    company = Company.objects.create(name="acme")
    for name, colour in {"a.png": RED, "b.png": BLUE}.items():
        paint(company.image_directory / name, colour)
    assert site.manage("build_embeddings", "--company=acme").wait() == 0
    server = Gunicorn(site)
    yield server
    server.stop()


def connect(server: Gunicorn) -> socket.socket:
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def test_nobody_who_sends_slowly_keeps_a_search_waiting(server: Gunicorn) -> None:
    head = b"POST /api/search/acme HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with ExitStack() as open_connections:
        for _ in range(100):
            open_connections.enter_context(connect(server))  # says nothing at all
            open_connections.enter_context(connect(server)).sendall(head)  # never ends its head
            body = open_connections.enter_context(connect(server))
            body.sendall(head + b"Content-Length: 1000\r\n\r\n--x\r\n")  # never ends its body
        assert server.found("acme", RED)[0] == "a.png"


def test_a_connection_that_says_nothing_is_closed(server: Gunicorn) -> None:
    with connect(server) as silent:
        assert silent.recv(1) == b""


def test_a_head_that_never_ends_is_hung_up_on(server: Gunicorn) -> None:
    with connect(server) as trickling:
        trickling.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert trickling.recv(1) == b""


def test_one_connection_too_many_is_not_answered(server: Gunicorn) -> None:
    with ExitStack() as open_connections:
        for _ in range(WORKER_CONNECTIONS):
            open_connections.enter_context(connect(server))
        assert first_byte(open_connections.enter_context(connect(server))) == b""
    assert server.status("/api/health/live") == 200


def test_who_asks_for_much_and_reads_nothing_is_hung_up_on(server: Gunicorn) -> None:
    with connect(server) as greedy:
        greedy.sendall(b"GET /static/admin/css/base.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300)  # 6 MB
        with pytest.raises(ConnectionError):
            keep_sending(greedy, seconds=60)


def test_nobody_who_reads_a_long_picture_slowly_keeps_a_search_waiting(server: Gunicorn) -> None:
    company = Company.objects.get(name="acme")
    Company.objects.update(public_page=True)
    Image.new("RGB", (2500, 2500)).save(company.image_directory / "a.png", "BMP")  # 19 MB in the place of the picture
    url = server.get("/api/images/acme?urls=true")["images"][0]["url"]
    with ExitStack() as open_connections:
        for _ in range(50):
            slow = open_connections.enter_context(connect(server))
            slow.sendall(f"GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert slow.recv(8) == b"HTTP/1.1"
        assert server.found("acme", RED)[0] == "a.png"


def keep_sending(connection: socket.socket, *, seconds: float) -> None:
    """Raises ConnectionError once the other end has closed: then it refuses what comes."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connection.sendall(b"x")
        time.sleep(0.5)


def first_byte(connection: socket.socket) -> bytes:
    """Ask for a page; return the first byte of the answer, none where the connection is closed."""
    try:
        connection.sendall(b"GET /api/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return connection.recv(1)
    except ConnectionError:
        return b""
