"""Weights that change under searches, in real processes: not one search fails or finds a wrong picture."""

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from search import publication
from search.companies import model_change
from search.engine.model.weights import entry_path
from tenants.models import Company
from tests.support.databases import on_sqlite
from tests.support.processes import ROOT, Site
from tests.support.servers import Browser, Gunicorn, environment_of
from tests.support.waiting import eventually
from tests.support.weights_files import shuffled

pytestmark = [pytest.mark.slow, on_sqlite]

PICTURES = 24
SEARCHERS = 3
_PAUSE = 0.03  # seconds after each answer: the processes that start meanwhile need the cores
_SECONDS = 60  # for an answer


class Server(Gunicorn):
    CONFIGURATION = "imagesearch/gunicorn_conf.py"


class Installation:
    """Servers and a worker, each with the weights that were configured when it began."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.servers: list[Server] = []
        self._begun: list[Server] = []
        self._worker: subprocess.Popen[bytes] | None = None

    def environment(self, weights: str, switch: str) -> dict[str, str]:
        return {
            "IMAGESEARCH_WEIGHTS": weights,
            "IMAGESEARCH_MODEL_SWITCH": switch,
            "IMAGESEARCH_DEVICE": "cpu",
            "IMAGESEARCH_CACHE_DIR": str(self.site.directory / "cache"),
            "IMAGESEARCH_BUILD_LEASE_SECONDS": "2",
            "IMAGESEARCH_KEEP_GENERATIONS": "3",
            "TORCH_HOME": str(self.site.directory / "torch"),
            "LOG_LEVEL": "INFO",
        }

    def start_server(self, weights: str, switch: str = "automatic") -> None:
        """Add a server to those that answer, and stop all but the last two, as a rolling restart does."""
        server = Server(self.site, len(self._begun), **self.environment(weights, switch))
        self._begun.append(server)
        self.servers = [*self.servers[-1:], server]
        for gone in self._begun[:-2]:
            gone.stop()

    def start_worker(self, weights: str, switch: str = "automatic") -> None:
        self.end_worker(signal.SIGTERM)
        environment = {**environment_of(self.site), **self.environment(weights, switch)}
        command = [sys.executable, "manage.py", "build_worker", "--interval=0.1", "--no-startup-delay"]
        with (self.site.directory / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, stdout=log)

    def end_worker(self, number: signal.Signals) -> None:
        if self._worker is not None:
            self._worker.send_signal(number)
            self._worker.wait(60)
            self._worker = None

    def press(self, action: str, company: Company | None = None) -> None:
        """Have somebody press a button of the newest server's page of models, and confirm: for all, or for one."""
        page = "/admin/tenants/company/model/"
        address = f"/admin/tenants/company/{company.pk}/model/{action}/" if company else f"{page}{action}/"
        told = Browser(self.servers[-1]).press_and_confirm(page, address)
        assert "is queued" in told, told

    def stop(self) -> None:
        self.end_worker(signal.SIGKILL)
        for server in self._begun:
            server.stop()


class Traffic:
    """Threads that search for known pictures, and one that puts, replaces and deletes. _lock guards what is known."""

    def __init__(self, installation: Installation, company: Company, known: dict[str, bytes]) -> None:
        self.faults: list[str] = []
        self.searches = 0
        self.changes = 0
        self._installation = installation
        self._address = f"/api/search/{company}"
        self._images = f"/api/images/{company}"
        self._key = {"X-API-Key": company.issue_key("shop", can_write=True)[1]}
        self._known = dict(known)
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(self._search_for_one,)) for _ in range(SEARCHERS)]
        self._threads.append(threading.Thread(target=self._repeat, args=(self._change_one,)))

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self) -> None:
        """Return when searches and changes that began after the call have been answered."""
        before = self.searches + 2 * SEARCHERS, self.changes + 2
        eventually(lambda: self.searches >= before[0] and self.changes >= before[1], "searches and changes go on")

    def _repeat(self, act: Callable[[random.Random], None]) -> None:
        rng = random.Random()
        while not self._end.wait(_PAUSE):
            try:
                act(rng)
            except requests.RequestException as error:
                self.faults.append(f"{act.__name__}: {error}")

    def _search_for_one(self, rng: random.Random) -> None:
        with self._lock:
            path = rng.choice(sorted(self._known))
            content = self._known[path]
        server = rng.choice(self._installation.servers)
        first = self._first(server, content)
        with self._lock:
            is_as_before = self._known.get(path) == content
        if is_as_before and not is_found(first, path):
            self.faults.append(f"{path} at {server.log.name}: {first}")
        self.searches += 1

    def _change_one(self, rng: random.Random) -> None:
        """Put a new picture, one in another's place, or take one away; all servers know at once."""
        with self._lock:
            earlier = rng.choice(sorted(self._known))
            if (kind := rng.choice(["new", "replaced", "gone"])) == "new":
                path, content = f"put/{self.changes:05}.png", drawn(rng.randrange(2**32))
            else:
                path, content = earlier, drawn(rng.randrange(2**32))
            before = self._known.pop(path, None)
        server = rng.choice(self._installation.servers)
        answer = self._delete(server, path) if kind == "gone" else self._put(server, path, content)
        if answer.status_code not in (200, 201):
            self.faults.append(f"{kind} {path}: {answer.status_code} {answer.text[:300]}")
            return
        for each in self._installation.servers:
            if kind != "gone" and not is_found(first := self._first(each, content), path):
                self.faults.append(f"{kind} {path} at {each.log.name}: {first}")
            if before is not None and is_found(first := self._first(each, before), path):
                self.faults.append(f"{kind} {path} is found as it was at {each.log.name}: {first}")
        if kind != "gone":
            with self._lock:
                self._known[path] = content
        self.changes += 1

    def _first(self, server: Server, content: bytes) -> Any:
        """Return the first result of a search, or what was answered in its place."""
        answer = requests.post(server.url + self._address, files={"image": ("a.png", content)}, timeout=_SECONDS)
        return answer.json()["results"][0] if answer.ok else f"{answer.status_code} {answer.text[:300]}"

    def _put(self, server: Server, path: str, content: bytes) -> requests.Response:
        headers = {**self._key, "Content-Type": "image/png"}
        return requests.put(f"{server.url}{self._images}/{path}", content, headers=headers, timeout=_SECONDS)

    def _delete(self, server: Server, path: str) -> requests.Response:
        return requests.delete(f"{server.url}{self._images}/{path}", headers=self._key, timeout=_SECONDS)


def is_found(first: Any, path: str) -> bool:
    return isinstance(first, dict) and first["fullPath"] == path and first["score"] > 0.999


def drawn(seed: int) -> bytes:
    """Return a picture of its own: a few coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(blocks).resize((96, 96), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def installation(site: Site) -> Iterator[Installation]:
    installation = Installation(site)
    yield installation
    installation.stop()


@pytest.fixture
def weights(site: Site) -> dict[str, str]:
    """Weights under the three kinds of names that there are: two of torchvision's entries, at hand, and a file."""
    hub = site.directory / "torch/hub"
    for seed, name in enumerate(("IMAGENET1K_V1", "IMAGENET1K_V2")):
        shuffled(entry_path(name, hub=hub), seed)
    own = shuffled(site.directory / "our-own.pth", 2)
    return {"V1": "IMAGENET1K_V1", "V2": "IMAGENET1K_V2", "file": str(own)}


@pytest.fixture
def known(site: Site) -> dict[str, bytes]:
    """The pictures that the company begins with."""
    pictures = {f"first/{number:03}.png": drawn(number) for number in range(PICTURES)}
    for path, content in pictures.items():
        file = site.directory / "media/acme" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return pictures


def serves(company: Company, weights: str) -> bool:
    company.refresh_from_db()
    return publication.info(company).weights == Path(weights).name


def test_weights_change_and_change_back_without_one_search_that_fails(
    installation: Installation, weights: dict[str, str], known: dict[str, bytes]
) -> None:
    acme = Company.objects.create(name="acme")
    installation.start_server(weights["V1"])
    installation.start_worker(weights["V1"])
    acme.queue_build()
    eventually(lambda: acme.builds.filter(status="succeeded").exists(), "the first index")
    with Traffic(installation, acme, known) as traffic:
        traffic.goes_on()
        installation.start_server(weights["V2"])
        installation.start_worker(weights["V2"])
        installation.press("rebuild")
        eventually(lambda: acme.builds.filter(status="running").exists(), "the build runs")
        installation.end_worker(signal.SIGKILL)
        traffic.goes_on()
        installation.start_worker(weights["V2"])
        eventually(lambda: serves(acme, weights["V2"]), "the new model is used")
        traffic.goes_on()

        installation.start_server(weights["file"], "manual")
        installation.start_worker(weights["file"], "manual")
        installation.press("rebuild")
        eventually(lambda: model_change.stand(fresh(acme)).candidate, "the new model waits")
        traffic.goes_on()
        assert serves(acme, weights["V2"])
        installation.press("use")
        eventually(lambda: serves(acme, weights["file"]), "the new model is used")
        traffic.goes_on()
        installation.press("back")
        eventually(lambda: serves(acme, weights["V2"]), "the model before is used")
        traffic.goes_on()

        installation.start_server(weights["V1"])
        installation.start_worker(weights["V1"])
        installation.press("use", acme)  # what somebody went back from is not for all
        eventually(lambda: serves(acme, weights["V1"]), "the first model is used again")
        traffic.goes_on()
    assert traffic.faults == []
    assert not acme.builds.filter(status="failed").exists()


def fresh(company: Company) -> Company:
    return Company.objects.get(pk=company.pk)
