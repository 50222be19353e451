"""What `make run` starts, as processes: its recipe on an empty data directory, and what is then served."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from search.engine.model.weights import BUILTIN_FILE, entry_path
from tests.browser.conftest import chromium  # noqa: F401
from tests.conftest import NO_NETWORK, paint
from tests.support.browsing import Watch
from tests.support.fakes import BLUE, RED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PYTHON = str(Path(sys.executable).relative_to(ROOT)) if Path(sys.executable).is_relative_to(ROOT) else sys.executable


@dataclass(frozen=True)
class Service:
    """A checkout's data in a directory of its own, and what serves it."""

    data: Path
    environment: dict[str, str]
    first_prepare: str
    supervisor: "subprocess.Popen[bytes]"

    def manage(self, *arguments: str) -> str:
        return manage(self.environment, *arguments)

    def get(self, path: str) -> dict[str, Any]:
        return self._open(urllib.request.Request(self._url(path)))[1]

    def post(self, path: str, picture: bytes, name: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of the answer to an upload."""
        boundary = "8x8x8"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        body = head + picture + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self._open(urllib.request.Request(self._url(path), body, headers))

    def processes(self, *, of: str = "") -> set[int]:
        """Return what runs with this service's environment, and with a word of its command line where one is given."""
        mark = f"DATABASE_URL={self.environment['DATABASE_URL']}".encode()
        running = (entry for entry in Path("/proc").glob("[0-9]*") if mark in _environment_of(entry))
        return {int(entry.name) for entry in running if of.encode() in (entry / "cmdline").read_bytes()}

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.environment['PORT']}{path}"

    def _open(self, request: urllib.request.Request) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def _environment_of(process: Path) -> list[bytes]:
    try:
        if (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return []
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is not ours
        return []


def manage(environment: dict[str, str], *arguments: str) -> str:
    result = subprocess.run(
        [PYTHON, "manage.py", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def wait_until(condition: Callable[[], Any], *, seconds: float, why: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data = tmp_path_factory.mktemp("run")
    for directory in ("embeddings", "media"):
        (data / directory).mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", str(data)),
        "SECRET_KEY": "x",
        "DATABASE_URL": f"sqlite:///{data}/db.sqlite3",
        "IMAGESEARCH_EMBEDDINGS_DIR": str(data / "embeddings"),
        "IMAGESEARCH_MEDIA_DIR": str(data / "media"),
        "PORT": str(free_port()),
        "WEB_PROCESSES": "1",
        # A machine without a network, and without weights but those that come with the code.
        "TORCH_HOME": str(data / "torch"),
        "IMAGESEARCH_CACHE_DIR": str(data / "cache"),
        "HTTPS_PROXY": NO_NETWORK,
        "https_proxy": NO_NETWORK,
    }
    prepared = manage(environment, "prepare")
    with (data / "log").open("wb") as log:
        supervisor = subprocess.Popen(
            [PYTHON, "-m", "imagesearch.supervise"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = Service(data, environment, prepared, supervisor)
    try:
        wait_until(lambda: _answers(started), seconds=60, why=(data / "log").read_text)
        yield started
    finally:
        supervisor.terminate()
        supervisor.wait(timeout=30)
        for process in started.processes():
            os.kill(process, signal.SIGKILL)


def _answers(service: Service) -> bool:
    try:
        return bool(service.get("/api/health")["api_ready"])
    except OSError:
        return False


def test_the_recipe_is_what_is_tested_here() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nrun:")[2].partition("\n\n")[0]
    steps = [line for line in recipe.splitlines()[1:] if line.strip()]
    for step, wanted in zip(steps, ["manage.py prepare", "imagesearch.supervise"], strict=True):
        assert wanted in step


def test_the_first_start_makes_a_demo_and_says_what_to_try(service: Service) -> None:
    port = service.environment["PORT"]
    assert "generated pictures" in service.first_prepare
    assert re.search(rf"curl -F image=@(\S+) http://localhost:{port}/api/search/demo", service.first_prepare)
    assert re.findall(r"http://\S+", service.first_prepare)[0] == f"http://localhost:{port}/"
    assert f"http://localhost:{port}/admin/" in service.first_prepare
    assert re.search(r"user admin, password \S{12,} ", service.first_prepare)


def test_without_a_network_the_demo_uses_the_built_in_weights_and_one_line_names_better_ones(service: Service) -> None:
    said = service.first_prepare + (service.data / "log").read_text()
    (line,) = [line for line in said.splitlines() if "could not be downloaded" in line]
    assert "built-in weights" in line
    assert str(_wanted(service)) in line
    assert _weights(service) == "builtin"
    assert service.get("/api/health/ready")["checks"]["model"] == "ok"


def _wanted(service: Service) -> Path:
    """Return where the configured weights belong."""
    return entry_path("IMAGENET1K_V1", hub=service.data / "torch/hub")


def _weights(service: Service) -> str:
    weights: str = service.get("/api/stats/demo")["stats"]["index_info"]["weights"]
    return weights


def test_the_service_is_healthy_and_knows_the_demo(service: Service) -> None:
    assert service.get("/api/health")["total_companies_available"] == 1
    (company,) = service.get("/api/companies")["companies"]
    assert (company["name"], company["embeddings_path"]) == ("demo", "embeddings/demo")
    assert service.get("/api/stats/demo")["stats"]["total_images"] > 200


def test_a_demo_picture_finds_itself_and_then_its_family(service: Service) -> None:
    match = re.search(r"image=@(\S+)", service.first_prepare)
    assert match
    picture = Path(match[1])
    status, body = service.post("/api/search/demo", picture.read_bytes(), picture.name)
    assert status == 200, body
    first = body["results"][0]
    assert service.data / "media/demo" / first["fullPath"] == picture
    assert first["score"] == pytest.approx(1, abs=1e-4)
    families = [result["location"] for result in body["results"]]
    assert families[:5] == [first["location"]] * 5


def test_a_newcomer_opens_the_printed_address_and_finds_the_family_of_a_picture(
    service: Service,
    chromium: Browser,  # noqa: F811
) -> None:
    (address,) = re.findall(r"Open:\s+(\S+)", service.first_prepare)
    page = chromium.new_page()
    watch = Watch(page, address.rstrip("/"))
    page.goto(address)
    page.get_by_role("link", name="Try it with demo").click()
    page.get_by_label("Choose pictures").set_input_files(service.data / "media/demo/Shapes/Star/star-03.jpg")
    names = page.locator("[data-results] .name")
    expect(names.first).to_have_text("star-03")
    assert all(name.startswith("star-") for name in names.all_inner_texts()[:5])
    expect(page.locator("[data-results] img").first).to_have_js_property("complete", True)
    page.close()
    assert not watch.complaints


def test_a_body_over_16_mb_is_refused_in_the_shape_of_the_api(service: Service) -> None:
    status, body = service.post("/api/search/demo", bytes(16 * 2**20 + 1), "large.png")
    assert status == 413
    assert body["error"] == "The image is too large: at most 16 MB are accepted"


PICTURE_FORM = (
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\nno picture\r\n--x--\r\n',
    "Content-Type: multipart/form-data; boundary=x\r\n",
)


def _talk(service: Service, head: str, body: Iterable[bytes], *, ends: bool = False) -> tuple[int | None, int]:
    """Send a request by hand; return the status of the answer, if any came, and how much of the body was taken."""
    taken, answer = 0, b""
    with socket.create_connection(("127.0.0.1", int(service.environment["PORT"])), timeout=60) as connection:
        try:
            connection.sendall(f"POST /api/search/demo HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
            for part in body:
                connection.sendall(part)
                taken += len(part)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # it has answered already and listens no more
        with suppress(ConnectionError):
            answer = connection.recv(4096)
    return int(answer.split()[1]) if answer else None, taken


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: -1\r\n",
        "Content-Length: many\r\n",
        "Content-Length: 1e3\r\n",
        "Content-Length: " + "9" * 5_000 + "\r\n",
        "Content-Length: 10\r\nContent-Length: 20\r\n",
        "Content-Length: 10\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked, chunked\r\n",
        "X-Long: " + "a" * 100_000 + "\r\n",
        "X-Many: 1\r\n" * 5_000,
        "No colon\r\n",
    ],
)
def test_a_head_that_makes_no_sense_is_refused(service: Service, head: str) -> None:
    status, _ = _talk(service, head, [])
    assert status in {400, 413, 431, 501}


def test_who_falls_silent_in_the_midst_of_a_body_is_hung_up_on(service: Service) -> None:
    status, _ = _talk(service, f"Content-Length: 1000\r\n{PICTURE_FORM[1]}", [PICTURE_FORM[0][:20]])
    assert status == 400


def test_a_body_without_a_length_and_without_an_end_is_taken_no_further_than_16_mb(service: Service) -> None:
    start = PICTURE_FORM[0].partition(b"no picture")[0]
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    endless = chain([b"%x\r\n" % len(start) + start + b"\r\n"], repeat(chunk))
    status, taken = _talk(service, f"Transfer-Encoding: chunked\r\n{PICTURE_FORM[1]}", endless)
    assert status in {413, None}  # None: it hung up before we had read its answer
    assert 15 * 2**20 < taken < 32 * 2**20  # with what both ends' sockets hold


def test_a_body_without_a_length_is_searched_with(service: Service) -> None:
    match = re.search(r"image=@(\S+)", service.first_prepare)
    assert match
    content = PICTURE_FORM[0].replace(b"no picture", Path(match[1]).read_bytes()).replace(b"a.png", b"a.jpg")
    parts = [content[start : start + 1000] for start in range(0, len(content), 1000)]
    body = [*(b"%x\r\n%s\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]
    assert _talk(service, f"Transfer-Encoding: chunked\r\n{PICTURE_FORM[1]}", body)[0] == 200


def test_a_body_longer_than_it_says_is_refused_and_who_leaves_in_one_is_forgotten(service: Service) -> None:
    content, kind = PICTURE_FORM
    gone, _ = _talk(service, f"{kind}Content-Length: {len(content) + 1000}\r\n", [content], ends=True)
    longer, _ = _talk(service, f"{kind}Content-Length: {len(content) - 30}\r\n", [content])
    assert (gone, longer) == (None, 400)
    assert service.get("/api/health")["status"] == "healthy"


def test_a_build_that_is_queued_elsewhere_is_carried_out_and_seen(service: Service) -> None:
    before = service.get("/api/stats/demo")["stats"]["total_images"]
    picture = paint(service.data / "media/demo/New/red.png", RED)
    service.manage("shell", "-c", "from tenants.models import Company; Company.objects.get(name='demo').queue_build()")

    def rebuilt() -> bool:
        return bool(service.get("/api/stats/demo")["stats"]["total_images"] == before + 1)

    wait_until(rebuilt, seconds=120, why=(service.data / "log").read_text)
    _, body = service.post("/api/search/demo", picture.read_bytes(), picture.name)
    assert body["results"][0]["fullPath"] == "New/red.png"


def test_a_killed_worker_is_back_for_the_next_build_and_no_search_fails(service: Service) -> None:
    before = service.get("/api/stats/demo")["stats"]["total_images"]
    query = next((service.data / "media/demo").rglob("*.jpg"))
    statuses: list[int] = []
    end = threading.Event()

    def search() -> None:
        while not end.is_set():
            statuses.append(service.post("/api/search/demo", query.read_bytes(), query.name)[0])

    searching = threading.Thread(target=search)
    searching.start()
    try:
        (worker,) = service.processes(of="build_worker")
        os.kill(worker, signal.SIGKILL)
        paint(service.data / "media/demo/New/blue.png", BLUE)
        service.manage(
            "shell", "-c", "from tenants.models import Company; Company.objects.get(name='demo').queue_build()"
        )
        wait_until(
            lambda: service.get("/api/stats/demo")["stats"]["total_images"] == before + 1,
            seconds=120,
            why=(service.data / "log").read_text,
        )
    finally:
        end.set()
        searching.join()
    assert service.processes(of="build_worker") - {worker}
    assert set(statuses) == {200}


def test_a_second_start_makes_nothing_twice(service: Service) -> None:
    index = (service.data / "embeddings/demo").resolve()
    started = time.monotonic()
    said = service.manage("prepare")
    assert time.monotonic() - started < 30
    assert "generated" not in said
    assert "password" not in said
    assert "/api/search/demo" in said
    assert (service.data / "embeddings/demo").resolve() == index


def test_the_demo_moves_to_the_configured_weights_once_they_are_there(service: Service) -> None:
    import torch

    state = torch.load(BUILTIN_FILE, weights_only=True)
    state["features.0.0.weight"] *= 2  # others
    torch.save(state, service.data / "weights.pth")
    (service.data / "weights.pth").rename(_wanted(service))
    moved = "IMAGENET1K_V1"
    wait_until(lambda: _weights(service) == moved, seconds=180, why=(service.data / "log").read_text)
    match = re.search(r"image=@(\S+)", service.first_prepare)
    assert match
    status, body = service.post("/api/search/demo", Path(match[1]).read_bytes(), "query.jpg")
    assert (status, service.data / "media/demo" / body["results"][0]["fullPath"]) == (200, Path(match[1]))


def test_ctrl_c_ends_everything_it_started(service: Service) -> None:
    assert len(service.processes()) >= 4  # the supervisor, gunicorn, its worker, the builds' worker
    os.killpg(service.supervisor.pid, signal.SIGINT)
    service.supervisor.wait(timeout=30)
    wait_until(lambda: not service.processes(), seconds=5, why=(service.data / "log").read_text)
