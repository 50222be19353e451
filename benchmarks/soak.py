"""make soak: minutes of everything at once against a real server and its worker; ends with 1 where anything was wrong.

Every company has the same pictures under its own names, so that another company's would be as close as one's own. What
each search has to find is computed beforehand from the vectors. Searches, hostile uploads, keys of others, pictures
put and deleted and rebuilds come from eight callers while the cache has room for a third of the companies. Beside them
connections that say nothing and bodies that trickle come and go. Twice a minute something breaks: by turns the build
worker is killed, and the database locked for longer than anybody waits for it (SQLite) or restarted (PostgreSQL).
With --reader a second, read-only web machine answers half of the requests, refuses changes, and sees at once those
that are made on the other. With --store indexes lie in moto's S3 server, and that machine has no directory of theirs.

Usage: python -m benchmarks.soak [--minutes 5] [--requests 1000000] [--weights PATH] [--postgresql] [--reader] [--store]
"""

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import socket
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import installation
from benchmarks.servers import Service, gunicorn, memory_of_workers, service
from tests.support.object_store import StoreServer
from tests.support.postgres import Cluster, binaries

COMPANIES = [f"company{number:02}" for number in range(12)]
CALLERS = 8
SILENT_A_SECOND = 20
TRICKLING = 20
TOP_K = 10
SECONDS_A_SAMPLE = 2
SECONDS_A_MISHAP = 30
SECONDS_LOCKED = 45  # a process waits for 20
SECONDS_RESTARTING = 6
SECONDS_FOR_BUILDS = 180  # that are still to do at the end: a lease, and the builds themselves
LEVEL = 1.1  # of memory at the end against that after the first quarter
ROUNDING = 1e-4

_METRICS_TOKEN = secrets.token_urlsafe()


@dataclass
class Company:
    name: str
    key: str
    guarded: bool  # requires a key
    vectors: np.ndarray  # [pictures, 960], of those that nobody removes
    ids: list[str]


@dataclass(frozen=True)
class Web:
    """A web machine."""

    address: str
    pid: int  # of the process whose children serve
    read_only: bool = False


class Mishaps:
    """What breaks, by turns, and when the database was away."""

    def __init__(self, outage: Callable[[], AbstractContextManager[None]]) -> None:
        self.workers_killed = self.outages = 0
        self._outage = outage
        self._away = threading.Lock()  # held while the database is
        self._back_at = 0.0

    def excuse(self, status: int, *, since: float) -> bool:
        """Return whether a request made then may have been answered so: the database was away while it was served."""
        return status == 503 and (self._away.locked() or self._back_at > since)

    def go_on(self, server: Service, end: threading.Event) -> None:
        for mishap in cycle([self._kill_worker, self._take_database]):
            if end.wait(SECONDS_A_MISHAP):
                return
            mishap(server)

    def _kill_worker(self, server: Service) -> None:
        worker = server.process("build_worker")
        if worker is not None:
            os.kill(worker, signal.SIGKILL)
            self.workers_killed += 1

    def _take_database(self, server: Service) -> None:
        with self._away:
            with self._outage():
                self.outages += 1
            self._back_at = time.monotonic()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(SECONDS_LOCKED)
        yield


@contextmanager
def _restarted(cluster: Cluster) -> Iterator[None]:
    with cluster.away():
        time.sleep(SECONDS_RESTARTING)
    yield


@dataclass
class Tally:
    """What came of the requests; guarded by its lock."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str, status: int, fault: str | None) -> None:
        with self.lock:
            self.statuses[f"{what} {status}"] += 1
            if fault:
                self.wrong.append(f"{what} {status}: {fault}")

    @property
    def requests(self) -> int:
        return self.statuses.total()


class Soak:
    def __init__(self, scratch: Path, weights: str, cluster: Cluster | None, store: StoreServer | None) -> None:
        environment = {"DATABASE_URL": cluster.create("soak")} if cluster else {}
        self.readers_own = {"IMAGESEARCH_READ_ONLY": "true", "IMAGESEARCH_CACHE_DIR": str(scratch / "reader-cache")}
        if store:
            environment |= store.environment(store.make_bucket())
            environment["IMAGESEARCH_REPLICA_DIR"] = str(scratch / "replica")
            self.readers_own["IMAGESEARCH_REPLICA_DIR"] = str(scratch / "reader-replica")
            self.readers_own |= {f"IMAGESEARCH_{name}_DIR": "/nowhere" for name in ("EMBEDDINGS", "MEDIA")}
        installation.set_up(scratch, weights, IMAGESEARCH_FOLD_SECONDS="10", **environment)
        self.mishaps = Mishaps(partial(_restarted, cluster) if cluster else partial(_locked, scratch / "db.sqlite3"))
        from search.companies import demo

        self.scratch = scratch
        demo.draw_demo_pictures(scratch / "drawn")
        drawn = sorted((scratch / "drawn").rglob("*.jpg"))
        self.photos = [photo for photo in drawn if not _has_borders(photo)][::4]
        self.queries = [photo.read_bytes() for photo in self.photos]
        self.companies = [self._company(number, name) for number, name in enumerate(COMPANIES)]
        first = self.companies[0]
        self.expected = -np.sort(-(first.vectors @ first.vectors.T), axis=1)  # [query, rank]: the query is a picture
        self.hostile = _hostile_files(self.queries[0])
        self.large = _large_picture()

    def _company(self, number: int, name: str) -> Company:
        from django.core.management import call_command

        from search import publication
        from tenants import models

        row = models.Company.objects.create(name=name, requires_api_key=number % 2 == 1)
        for place, photo in enumerate(self.photos):
            target = row.image_directory / name / f"{place:03}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, target)
        call_command("build_embeddings", company=name, verbosity=0)
        index = publication.built_index(row)
        key = models.ApiKey(company=row, name="soak", can_write=True)
        text = key.draw()
        key.save()
        ids = [record.id for record in index.records]
        return Company(name, text, row.requires_api_key, index.vectors[:], ids)

    def run(self, minutes: float, requests: int, *, reader: bool) -> dict[str, Any]:
        from search import publication
        from tenants import models

        one = publication.built_index(models.Company.objects.get(name=COMPANIES[0])).nbytes
        environment = {"IMAGESEARCH_CACHE_BYTES": str(len(COMPANIES) // 3 * one), "METRICS_TOKEN": _METRICS_TOKEN}
        tally, samples = Tally(), []
        with ExitStack() as stack:
            server = stack.enter_context(service(environment))
            webs = [Web(server.address, server.process("gunicorn") or 0)]
            if reader:
                webs.append(stack.enter_context(self._reader(environment)))
            self.elsewhere = webs[-1]  # where changes are looked for
            until = time.monotonic() + 60 * minutes
            callers = [
                threading.Thread(target=self._call, args=(webs, seed, until, requests, tally))
                for seed in range(CALLERS)
            ]
            for web in webs:
                threading.Thread(target=_come_and_say_nothing, args=(web,), daemon=True).start()
                for _ in range(TRICKLING):
                    threading.Thread(target=_trickle, args=(web,), daemon=True).start()
            end = threading.Event()
            mishaps = threading.Thread(target=self.mishaps.go_on, args=(server, end))
            for thread in (*callers, mishaps):
                thread.start()
            while any(caller.is_alive() for caller in callers):
                time.sleep(SECONDS_A_SAMPLE)
                samples.append(sum(memory_of_workers(web.pid)["together_mb"] for web in webs))
            end.set()
            mishaps.join()
            evictions = sum(map(_evictions, webs))
            builds = _builds_in_the_end()
            same = webs[0].pid == server.process("gunicorn")
        return _report(tally, samples, evictions, builds, minutes, self.mishaps, same)

    @contextmanager
    def _reader(self, environment: dict[str, str]) -> Iterator[Web]:
        arguments = ["--config", "imagesearch/gunicorn_conf.py", "imagesearch.asgi"]
        with gunicorn(arguments, environment | self.readers_own) as reader:
            yield Web(reader.address, reader.pid, read_only=True)

    def _call(self, webs: list[Web], seed: int, until: float, requests: int, tally: Tally) -> None:
        chance = random.Random(seed)
        while time.monotonic() < until and tally.requests < requests:
            what = chance.choices(
                [
                    self._search,
                    self._similar,
                    self._hostile,
                    self._foreign,
                    self._page,
                    self._put,
                    self._delete,
                    self._rebuild,
                    self._large,
                    self._seen,
                ],
                weights=[60, 10, 10, 6, 4, 5, 4, 1, 1, 2],
            )[0]
            company, begun = chance.choice(self.companies), time.monotonic()
            try:
                web = webs[0] if what == self._seen else chance.choice(webs)
                status, fault = what(web, company, chance)
            except _OnItsWay:
                status, fault = 503, None
            except Exception as error:  # a connection that broke is a wrong answer too
                status, fault = 0, repr(error)
            tally.note(what.__name__.strip("_"), status, None if self.mishaps.excuse(status, since=begun) else fault)

    # Requests: each returns the status and what is wrong with the answer

    def _search(self, web: Web, company: Company, chance: random.Random) -> tuple[int, str | None]:
        query = chance.randrange(len(self.queries))
        key = company.key if company.guarded or chance.random() < 0.5 else None
        status, body = _send(web, f"search/{company.name}", image=self.queries[query], key=key)
        return status, _wrong_results(status, body, company, self.expected[query])

    def _similar(self, web: Web, company: Company, chance: random.Random) -> tuple[int, str | None]:
        query = chance.randrange(len(self.queries))
        status, body = _send(web, f"search/{company.name}/{company.ids[query]}", key=company.key)
        return status, _wrong_results(status, body, company, self.expected[query][1:])

    def _hostile(self, web: Web, company: Company, chance: random.Random) -> tuple[int, str | None]:
        name, content = chance.choice(self.hostile)
        status, body = _send(web, f"search/{company.name}", image=content, name=name, key=company.key)
        return status, None if status == 400 and body["success"] is False else f"{name}: {body}"

    def _large(self, web: Web, company: Company, chance: random.Random) -> tuple[int, str | None]:
        status, body = _send(web, f"search/{company.name}", image=self.large, name="large.png", key=company.key)
        return status, None if status in (200, 503) else str(body)

    def _foreign(self, web: Web, company: Company, chance: random.Random) -> tuple[int, str | None]:
        other = chance.choice([each for each in self.companies if each is not company])
        status, body = _send(web, f"search/{company.name}", image=self.queries[0], key=other.key)
        return status, None if status == 400 and "results" not in body else str(body)

    def _page(self, web: Web, company: Company, chance: random.Random) -> tuple[int, str | None]:
        status, body = _send(web, f"images/{company.name}", key=company.key)
        paths = [image["fullPath"] for image in body.get("images", [])]
        own = all(path.startswith(f"{company.name}/") for path in paths)
        return status, None if status == 200 and len(paths) >= len(self.photos) and own else str(body)[:500]

    def _put(self, web: Web, company: Company, chance: random.Random) -> tuple[int, str | None]:
        path, content = f"{company.name}/live{chance.randrange(5)}.jpg", chance.choice(self.queries)
        status, body = _send(web, f"images/{company.name}/{path}", method="PUT", body=content, key=company.key)
        return status, _wrong_change(web, status, body, right=(200, 201))

    def _delete(self, web: Web, company: Company, chance: random.Random) -> tuple[int, str | None]:
        path = f"{company.name}/live{chance.randrange(5)}.jpg"
        status, body = _send(web, f"images/{company.name}/{path}", method="DELETE", key=company.key)
        return status, _wrong_change(web, status, body, right=(200, 404))

    def _rebuild(self, web: Web, company: Company, chance: random.Random) -> tuple[int, str | None]:
        status, body = _send(web, f"reindex/{company.name}", method="POST", body=b"", key=company.key)
        return status, _wrong_change(web, status, body, right=(202,))

    def _seen(self, web: Web, company: Company, chance: random.Random) -> tuple[int, str | None]:
        """Put and delete a picture that nobody else knows, and look for it each time on the other machine."""
        path = f"images/{company.name}/{company.name}/live{secrets.token_hex(8)}.jpg"
        for method, expected in (("PUT", 200), ("DELETE", 404)):
            body = self.queries[0] if method == "PUT" else None
            status, answer = _send(web, path, method=method, body=body, key=company.key)
            if status not in (200, 201):
                return status, str(answer)
            status, answer = _send(self.elsewhere, path, key=company.key)
            if status != expected:
                return status, f"after {method}: {answer}"
        return status, None


def _wrong_change(web: Web, status: int, body: dict[str, Any], *, right: tuple[int, ...]) -> str | None:
    if web.read_only:
        return None if (status, body.get("code")) == (403, "read_only") else str(body)
    return None if status in right else str(body)


class _OnItsWay(Exception):
    """A machine that has no copy of an index yet says so: it is to be asked again."""


def _come_and_say_nothing(web: Web) -> None:
    address = _address(web)
    silent = deque[socket.socket](maxlen=20 * SILENT_A_SECOND)
    with suppress(OSError):  # the server has ended
        while True:
            silent.append(socket.create_connection(address))
            time.sleep(1 / SILENT_A_SECOND)


def _trickle(web: Web) -> None:
    head = b"POST /api/search/x HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
    with suppress(ConnectionRefusedError):  # the server has ended
        while True:
            with (
                suppress(BrokenPipeError, ConnectionResetError),
                socket.create_connection(_address(web)) as trickling,
            ):
                trickling.sendall(head)
                while True:
                    trickling.sendall(b"a")
                    time.sleep(1)


def _address(web: Web) -> tuple[str, int]:
    host, _, port = web.address.rpartition("/")[2].partition(":")
    return host, int(port)


def _has_borders(photo: Path) -> bool:
    """Return whether a search looks inside this picture's borders too, and finds more than its vector tells."""
    from search.engine.pictures.borders import inside_borders

    with Image.open(photo) as image:
        return inside_borders(image.convert("RGB")) is not None


def _large_picture() -> bytes:
    content = BytesIO()
    Image.new("RGB", (6200, 5000), "red").save(content, "PNG")
    return content.getvalue()


def _wrong_results(status: int, body: dict[str, Any], company: Company, expected: np.ndarray) -> str | None:
    """Return what is wrong with an answer, or None. expected: the scores of the pictures that stay, best first."""
    if status != 200:
        return str(body)
    results = body["results"]
    foreign = [entry["fullPath"] for entry in results if not entry["fullPath"].startswith(f"{company.name}/")]
    scores = [entry["score"] for entry in results]
    staying = [entry["score"] for entry in results if "/live" not in entry["fullPath"]]
    if foreign:
        return f"pictures of others: {foreign}"
    if len(results) != TOP_K or scores != sorted(scores, reverse=True):
        return f"{len(results)} results with the scores {scores}"
    if not np.allclose(staying, expected[: len(staying)], atol=ROUNDING):
        return f"scores {staying} instead of {expected[:TOP_K].tolist()}"
    return None


def _hostile_files(photo: bytes) -> list[tuple[str, bytes]]:
    gif = b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;"  # 65,535 x 65,535
    return [
        ("cut.jpg", photo[: len(photo) // 2]),
        ("photo.png", photo),
        ("page.html", b"<script>alert(1)</script>"),
        ("empty.jpg", b""),
        ("noise.jpg", b"\xff\xd8\xff" + bytes(range(256)) * 400),
        ("bomb.gif", gif),
        ("comments.gif", b"GIF89a\x08\0\x08\0\0\0\0" + b"!\xfe\0" * 20_000),
        ("../../etc/passwd.exe", photo),
    ]


def _send(
    web: Web,
    path: str,
    *,
    method: str | None = None,
    image: bytes | None = None,
    name: str = "query.jpg",
    body: bytes | None = None,
    key: str | None = None,
) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "image/jpeg"} | ({"X-API-Key": key} if key else {})
    if image is not None:
        head = f'--soak\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        body = head.encode() + image + b"\r\n--soak--\r\n"
        headers["Content-Type"] = "multipart/form-data; boundary=soak"
    request = urllib.request.Request(f"{web.address}/api/{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        answer = json.load(error)
        if answer.get("code") == "index_on_its_way":
            raise _OnItsWay from error
        return error.code, answer


def _evictions(web: Web) -> int:
    request = urllib.request.Request(f"{web.address}/metrics", headers={"Authorization": f"Bearer {_METRICS_TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as response:
        lines = response.read().decode().splitlines()
    counted = [line.split()[-1] for line in lines if line.startswith("imagesearch_index_cache_evictions_total")]
    return int(sum(map(float, counted)))


def _builds_in_the_end() -> dict[str, int]:
    """Return how many builds there are of each status, once the worker has carried out all of them."""
    from django.db import close_old_connections

    from tenants import models

    until = time.monotonic() + SECONDS_FOR_BUILDS
    close_old_connections()
    while models.IndexBuild.objects.active().exists() and time.monotonic() < until:
        time.sleep(1)
    return dict(Counter(models.IndexBuild.objects.values_list("status", flat=True)))


def _report(
    tally: Tally,
    samples: list[float],
    evictions: int,
    builds: dict[str, int],
    minutes: float,
    mishaps: Mishaps,
    same_server: bool,
) -> dict[str, Any]:
    quarter = max(1, len(samples) // 4)
    early, late = statistics.median(samples[quarter : 2 * quarter] or samples), statistics.median(samples[-quarter:])
    return {
        "minutes": minutes,
        "requests": tally.requests,
        "statuses": dict(sorted(tally.statuses.items())),
        "wrong_answers": len(tally.wrong),
        "server_errors": sum(count for name, count in tally.statuses.items() if int(name.split()[1]) >= 500),
        "first_wrong_answers": tally.wrong[:20],
        "evictions": evictions,
        "builds": builds,
        "workers_killed": mishaps.workers_killed,
        "outages": mishaps.outages,
        "same_server": same_server,
        "memory_mb": {"second_quarter": round(early), "last_quarter": round(late), "most": round(max(samples))},
        "passed": (
            not tally.wrong and evictions > 0 and late <= LEVEL * early and set(builds) == {"succeeded"} and same_server
        ),
    }


def _cluster() -> Cluster:
    directory = binaries()
    if directory is None:
        sys.exit("PostgreSQL is not installed here: no /usr/lib/postgresql/*/bin/initdb")
    return Cluster(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default=os.environ.get("IMAGESEARCH_WEIGHTS", "IMAGENET1K_V1"))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--postgresql", action="store_true", help="on a PostgreSQL server of its own, not on SQLite")
    parser.add_argument("--reader", action="store_true", help="over two web machines, one of them read-only")
    parser.add_argument("--store", action="store_true", help="with the indexes in an S3 server of its own")
    options = parser.parse_args()
    store = StoreServer() if options.store else None
    cluster = _cluster() if options.postgresql else None
    scratch = Path(tempfile.mkdtemp(prefix="imagesearch-soak-"))
    try:
        result = Soak(scratch, options.weights, cluster, store).run(
            options.minutes, options.requests, reader=options.reader
        )
    finally:
        for server in filter(None, [cluster, store]):
            server.stop()
        shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps(result, indent=2))
    sys.exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
