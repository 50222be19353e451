import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from search.tasks import call_for_help
from tenants.models import BuildUnit, Company, DuplicateSearch
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED
from tests.support.processes import ROOT, copy_sqlite, database
from tests.support.waiting import eventually

MakeCompany = Callable[..., Company]

TOKEN = "t" * 32
SEARCH = "/api/search/<name:company>"


class Samples(dict[str, float]):
    """Every number that /metrics tells, as `name{label="value"}` with the labels in order."""

    def __init__(self, text: str) -> None:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                self[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value

    def of(self, name: str, **labels: str) -> float:
        given = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        return self.get(f"{name}{{{given}}}" if given else name, 0)

    def requests(self, endpoint: str, status: int, *, method: str = "POST", company: str = "") -> float:
        labels = {"method": method, "endpoint": endpoint, "company": company, "status": str(status)}
        return self.of("imagesearch_requests_total", **labels)


def scrape(client: Client, **query: str) -> Samples:
    response = client.get("/metrics", query, headers={"Authorization": f"Bearer {TOKEN}"})
    assert response.status_code == 200
    return Samples(response.content.decode())


@pytest.fixture
def token(settings: Any) -> None:
    settings.METRICS_TOKEN = TOKEN


@pytest.mark.usefixtures("db")
def test_without_a_token_set_there_is_no_such_page(client: Client) -> None:
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer"}):
        assert client.get("/metrics", headers=headers).status_code == 404


@pytest.mark.usefixtures("token")
def test_what_the_database_tells_of_all_machines_is_told_by_one(
    client: Client, make_company: MakeCompany, settings: Any
) -> None:
    make_company("acme", {"red.png": RED})
    alone = scrape(client)
    beside = scrape(client, only="machine")
    settings.READ_ONLY = True
    reader = scrape(client)
    of_all = {"imagesearch_builds", "imagesearch_tasks_waiting", "imagesearch_worker_silent"}
    assert of_all <= _names(alone)
    assert not of_all & (_names(beside) | _names(reader))
    own = {"imagesearch_requests_total", "imagesearch_database_up"}
    assert own <= _names(alone) & _names(beside) & _names(reader)


def _names(samples: Samples) -> set[str]:
    return {name.partition("{")[0] for name in samples}


@pytest.mark.usefixtures("token")
def test_searches_are_counted_by_how_they_came_out(client: Client, make_company: MakeCompany) -> None:
    make_company("acme", {"red.png": RED})
    before = scrape(client)
    for form in ({}, {}, {"min_score": "1", "image": picture(GREEN)}, {"top_k": "many"}):
        client.post("/api/search/acme", {"image": picture(RED), **form})
    after = scrape(client)
    new = {
        outcome: after.of("imagesearch_searches_total", company="acme", channel="api", outcome=outcome)
        - before.of("imagesearch_searches_total", company="acme", channel="api", outcome=outcome)
        for outcome in ("found", "nothing", "refused", "error")
    }
    assert new == {"found": 2, "nothing": 1, "refused": 1, "error": 0}


@pytest.mark.usefixtures("db", "token")
@pytest.mark.parametrize("sent", [None, "", "Bearer", "Bearer x", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}é"])
def test_who_does_not_bear_the_token_learns_nothing(client: Client, sent: str | None) -> None:
    response = client.get("/metrics", headers={} if sent is None else {"Authorization": sent})
    assert (response.status_code, response["WWW-Authenticate"]) == (401, "Bearer")
    assert set(response.json()) == {"success", "error", "code"}
    assert TOKEN not in response.content.decode()


@pytest.mark.usefixtures("db", "token")
def test_machines_inside_ask_over_http(client: Client, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    scrape(client)
    assert client.get("/api/health/live").status_code == 200
    assert client.get("/api/nothing").status_code == 301


@pytest.mark.usefixtures("db", "token")
def test_searches_are_counted_by_pattern_company_and_status(client: Client, make_company: MakeCompany) -> None:
    make_company("acme", {"a.png": RED})
    before = scrape(client)
    for path in ("/api/search/acme", "/api/search/acme/"):
        client.post(path, {"image": picture(RED)})
    client.post("/api/search/acme")
    after = scrape(client)
    assert after.requests(SEARCH, 200, company="acme") - before.requests(SEARCH, 200, company="acme") == 2
    assert after.requests(SEARCH, 400, company="acme") - before.requests(SEARCH, 400, company="acme") == 1
    for name, labels, more in [
        ("imagesearch_request_seconds_count", {"method": "POST", "endpoint": SEARCH}, 3),
        ("imagesearch_stage_seconds_count", {"stage": "index"}, 2),  # a wrong form is refused before
        ("imagesearch_stage_seconds_count", {"stage": "decode"}, 2),
        ("imagesearch_stage_seconds_count", {"stage": "embed"}, 2),
        ("imagesearch_stage_seconds_count", {"stage": "search"}, 2),
    ]:
        assert after.of(name, **labels) - before.of(name, **labels) == more, labels
    took = after.of("imagesearch_request_seconds_sum", method="POST", endpoint=SEARCH)
    assert took > before.of("imagesearch_request_seconds_sum", method="POST", endpoint=SEARCH)


@pytest.mark.usefixtures("db", "token")
def test_strangers_make_no_series(client: Client) -> None:
    def ask(name: str) -> set[str]:
        client.post(f"/api/search/{name}", {"image": picture(RED)})
        client.get(f"/api/stats/{name}")
        client.get(f"/{name}")
        client.get(f"/api/{name}", headers={"Host": f"{name}.example.com", "X-Request-ID": name})
        client.generic(name.upper(), "/api/health")
        return set(scrape(client))

    first = ask("stranger1")
    assert ask("stranger2") == first
    assert not [name for name in first if "stranger" in name.lower()]


@pytest.mark.usefixtures("token")
def test_the_cache_is_counted(client: Client, make_company: MakeCompany, settings: Any) -> None:
    settings.CACHE_BYTES = 1
    for name in ("acme", "globex"):
        make_company(name, {"a.png": RED})
    before = scrape(client)
    for name in ("acme", "acme", "globex", "acme"):
        client.post(f"/api/search/{name}", {"image": picture(RED)})
    after = scrape(client)
    counts = {what: f"imagesearch_index_cache_{what}_total" for what in ("hits", "loads", "evictions")}
    assert {what: after[name] - before.of(name) for what, name in counts.items()} == {
        "hits": 1,
        "loads": 3,
        "evictions": 2,
    }
    assert after["imagesearch_index_cache_companies"] == 1
    assert after["imagesearch_index_cache_bytes"] >= 960 * 4


@pytest.mark.usefixtures("token")
def test_builds_and_queues_are_told_from_the_database(client: Client, make_company: MakeCompany) -> None:
    acme = make_company("acme", {"a.png": RED, "b.png": GREEN})
    paint(acme.image_directory / "c.png", BLUE)
    (acme.image_directory / "broken.png").write_bytes(b"broken")
    call_command("build_embeddings", company="acme")
    Company.objects.create(name="globex")
    with pytest.raises(CommandError):
        call_command("build_embeddings", company="globex")
    DuplicateSearch.objects.ask(acme)
    before = scrape(client)
    BuildUnit.objects.offer(acme.queue_build(), {"first": 5, "second": 5}, fingerprint="f")
    assert BuildUnit.objects.get(name="second").start()
    call_for_help()  # waits as long as there are units, and so tells nothing
    samples = scrape(client)
    units = {status: samples.of("imagesearch_build_units", status=status) for status in ("queued", "running")}
    assert units == {"queued": 1, "running": 1}
    builds = {status: samples.of("imagesearch_builds", status=status) for status in ("queued", "running", "cancelled")}
    assert builds == {"queued": 1, "running": 0, "cancelled": 0}
    assert samples.of("imagesearch_builds", status="succeeded") == 2
    assert samples.of("imagesearch_builds", status="failed") == 1
    took = [build.finished_at - build.started_at for build in acme.builds.filter(status="succeeded")]
    told = samples.of("imagesearch_builds_seconds", status="succeeded")
    assert told == pytest.approx(sum(time.total_seconds() for time in took))
    assert samples.of("imagesearch_builds_pictures", outcome="embedded") == 3
    assert samples.of("imagesearch_builds_pictures", outcome="reused") == 2
    assert samples.of("imagesearch_builds_pictures", outcome="skipped") == 1
    assert samples.of("imagesearch_duplicate_searches", status="queued") == 1
    assert samples["imagesearch_tasks_waiting"] - before["imagesearch_tasks_waiting"] == 1
    assert samples["imagesearch_database_up"] == 1


@pytest.mark.usefixtures("db", "token")
def test_metrics_are_told_while_the_database_is_away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.get("/api/nothing")
    monkeypatch.setitem(connection.settings_dict, "NAME", "/nowhere/db.sqlite3")
    samples = scrape(client)
    assert samples["imagesearch_database_up"] == 0
    assert samples.requests("", 404, method="GET") >= 1
    assert not [name for name in samples if name.startswith("imagesearch_builds")]


# A real server of two processes ---------------------------------------------------------------------------------------


class Server:
    """gunicorn with two processes, of which any can be held."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        command = [
            "-m",
            "gunicorn",
            "--config",
            "tests/support/gunicorn_conf.py",
            "--bind",
            "127.0.0.1:0",
            "imagesearch.asgi",
        ]
        with log.open("wb") as stderr:
            self.master = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stderr=stderr)
        listening = eventually(lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()), "gunicorn listens")
        self.url = listening[0]

    def workers(self) -> list[int]:
        """Return the ids of the two processes."""
        children = Path(f"/proc/{self.master.pid}/task/{self.master.pid}/children")
        return eventually(lambda: [*map(int, pids)] if len(pids := children.read_text().split()) == 2 else [], "two")

    @contextmanager
    def answered_by(self, worker: int) -> Iterator[None]:
        """Hold the other process, so that this one answers."""
        (other,) = set(self.workers()) - {worker}
        os.kill(other, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(other, signal.SIGCONT)

    def search(self, company: str) -> int:
        boundary = "8x8x8"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="query.png"\r\n\r\n'
        body = head.encode() + picture(RED).getvalue() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self._open(urllib.request.Request(f"{self.url}/api/search/{company}", body, headers))[0]

    def scrape(self) -> Samples:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return Samples(self._open(urllib.request.Request(f"{self.url}/metrics", headers=headers))[1])

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def stop(self) -> None:
        self.master.terminate()
        self.master.wait(60)

    def _open(self, request: urllib.request.Request) -> tuple[int, str]:
        with urllib.request.urlopen(request, timeout=90) as answer:
            return answer.status, answer.read().decode()


@pytest.fixture
def server(
    sqlite_tables: Path, tmp_path: Path, make_company: MakeCompany, django_db_blocker: Any, monkeypatch: Any
) -> Iterator[Server]:
    url = copy_sqlite(sqlite_tables, tmp_path / "db.sqlite3")
    with django_db_blocker.unblock(), database(url):
        for name in ("acme", "globex"):
            make_company(name, {"a.png": RED})
    (tmp_path / "tmp").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "SECRET_KEY": "x",
        "DATABASE_URL": url,
        "IMAGESEARCH_EMBEDDINGS_DIR": str(django_settings.EMBEDDINGS_DIR),
        "IMAGESEARCH_MEDIA_DIR": str(django_settings.MEDIA_ROOT),
        "METRICS_TOKEN": TOKEN,
        "LOG_FORMAT": "json",
        "WEB_PROCESSES": "2",
        "TMPDIR": str(tmp_path / "tmp"),
    }
    started = Server(environment, tmp_path / "log")
    try:
        yield started
    finally:
        started.stop()


@pytest.mark.slow
def test_two_processes_are_one_service(server: Server, tmp_path: Path) -> None:
    first, second = server.workers()
    with server.answered_by(first):
        assert [server.search("acme") for _ in range(3)] == [200] * 3
    with server.answered_by(second):
        assert [server.search(name) for name in ("acme", "globex")] == [200] * 2

    def whole(samples: Samples) -> dict[str, float]:
        return {
            "acme": samples.requests(SEARCH, 200, company="acme"),
            "globex": samples.requests(SEARCH, 200, company="globex"),
            "embedded": samples.of("imagesearch_stage_seconds_count", stage="embed"),
            "loads": samples["imagesearch_index_cache_loads_total"],
            "hits": samples["imagesearch_index_cache_hits_total"],
            "companies in memory": samples["imagesearch_index_cache_companies"],
        }

    expected = {"acme": 4, "globex": 1, "embedded": 5, "loads": 3, "hits": 2, "companies in memory": 3}
    for worker in (first, second):
        with server.answered_by(worker):
            assert whole(server.scrape()) == expected

    os.kill(second, signal.SIGKILL)  # what it counted stays, what it held is gone
    eventually(lambda: second not in server.workers(), "another process takes its place")
    assert whole(server.scrape()) == {**expected, "companies in memory": 1}

    lines = [record for record in server.records if record["logger"] == "search.requests"]
    assert [line["company"] for line in lines].count("acme") == 4
    assert {"gunicorn.error"} < {record["logger"] for record in server.records}  # all of the log is JSON
    server.stop()
    assert list((tmp_path / "tmp").iterdir()) == []
