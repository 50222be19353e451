import io
import json
import logging.config
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client

from search import queries
from search.engine.errors import NothingToIndex
from search.tasks import carry_out_build
from tenants.models import Company
from tests.conftest import picture
from tests.support.fakes import GREEN, RED

MakeCompany = Callable[..., Company]
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class Log:
    """What the service's own logging configuration writes."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def lines(self) -> list[str]:
        return self._stream.getvalue().splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    written = getattr(request, "param", "json")
    stream = io.StringIO()
    stderr = {**django_settings.LOGGING["handlers"]["stderr"], "stream": stream, "formatter": written}
    logging.config.dictConfig({**django_settings.LOGGING, "handlers": {"stderr": stderr}})
    yield Log(stream)
    logging.config.dictConfig(django_settings.LOGGING)


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"a.png": RED, "b.png": GREEN})


def test_a_request_is_one_line(client: Client, acme: Company, log: Log) -> None:
    response = client.post("/api/search/acme", {"image": picture(RED)}, headers={"X-Request-ID": "order-66"})
    line = log.records[-1]
    assert [record["logger"] for record in log.records].count("search.requests") == 1
    told = {name: line[name] for name in ("level", "request_id", "method", "route", "path", "company", "status")}
    assert told == {
        "level": "INFO",
        "request_id": "order-66",
        "method": "POST",
        "route": "/api/search/<name:company>",
        "path": "/api/search/acme",
        "company": "acme",
        "status": 200,
    }
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*\+00:00$", line["timestamp"])
    assert line["bytes_in"] > 60
    assert line["bytes_out"] == len(response.content)
    assert list(line["stages_ms"]) == ["index", "decode", "embed", "search"]
    assert sum(line["stages_ms"].values()) <= line["duration_ms"] + 0.05  # each is rounded


@pytest.mark.usefixtures("db")
@pytest.mark.parametrize("path", ["/api/search/nobody", "/api/nothing", "/nothing", "/admin/", "/static/none.css"])
def test_refusals_are_one_line_too(client: Client, log: Log, path: str) -> None:
    status = client.post(path).status_code
    (line,) = log.records
    assert (line["path"], line["status"], line["company"]) == (path, status, "")


@pytest.mark.usefixtures("db")
@pytest.mark.parametrize(
    "path", ["/api/health", "/api/stats/nobody", "/api/nothing", "/nothing", "/", "/admin/", "/admin/x"]
)
def test_every_answer_has_the_id_that_was_sent(client: Client, path: str) -> None:
    assert client.get(path, headers={"X-Request-ID": "a.B_c-1"})["X-Request-ID"] == "a.B_c-1"


def test_also_the_refusal_of_a_host(client: Client, log: Log) -> None:
    response = client.get("/api/health", headers={"Host": "evil.example.com", "X-Request-ID": "a1"})
    assert (response.status_code, response["X-Request-ID"]) == (400, "a1")
    assert {record["request_id"] for record in log.records} == {"a1"}


@pytest.mark.parametrize("sent", ["", " ", "a b", "a" * 65, "a\nb", "<script>", "é", "a;b", '{"a":1}'])
def test_an_id_that_is_not_sane_is_replaced(client: Client, sent: str, log: Log) -> None:
    response = client.get("/api/nothing", headers={"X-Request-ID": sent})
    assert re.fullmatch(UUID, response["X-Request-ID"])
    assert log.records[-1]["request_id"] == response["X-Request-ID"]


def test_ids_made_here_differ(client: Client) -> None:
    assert len({client.get("/api/nothing")["X-Request-ID"] for _ in range(10)}) == 10


def test_requests_side_by_side_keep_their_own_ids(log: Log) -> None:
    def ask(thread: int) -> None:
        for number in range(10):
            name = f"{thread}-{number}"
            answers[name] = Client().get(f"/api/{name}", headers={"X-Request-ID": name})["X-Request-ID"]

    answers: dict[str, str] = {}
    threads = [threading.Thread(target=ask, args=[thread]) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 40
    assert all(name == answered for name, answered in answers.items())
    assert {record["path"]: record["request_id"] for record in log.records} == {
        f"/api/{name}": name for name in answers
    }


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(companies: Any) -> None:
        raise RuntimeError("it broke\nin two lines")

    monkeypatch.setattr(queries, "companies_with_index", fail)


@pytest.mark.usefixtures("db", "broken")
def test_a_fault_is_told_with_its_traceback_in_one_line(client: Client, log: Log) -> None:
    client.raise_request_exception = False
    response = client.get("/api/health?token=hunter2")
    assert response.status_code == 500
    fault, line = log.records
    assert fault["level"] == "ERROR"
    assert "Traceback" in fault["traceback"]
    assert "RuntimeError: it broke\nin two lines" in fault["traceback"]
    assert fault["request_id"] == line["request_id"] == response["X-Request-ID"]
    assert line["status"] == 500
    assert "hunter2" not in "".join(log.lines)


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_a_key_is_told_by_its_prefix_alone(client: Client, acme: Company, log: Log, header: str) -> None:
    key, text = acme.issue_key("shop")
    sent = text if header == "X-API-Key" else f"Api-Key {text}"
    assert client.get("/api/stats/acme", headers={header: sent}).status_code == 200
    assert log.records[-1]["key_prefix"] == key.prefix
    assert text.removeprefix(key.prefix) not in "".join(log.lines)


@pytest.mark.usefixtures("db")
def test_a_wrong_key_is_not_told_at_all(client: Client, log: Log) -> None:
    assert client.get("/api/health", headers={"X-API-Key": "hunter2"}).status_code == 401
    assert log.records[-1]["key_prefix"] == ""
    assert "hunter2" not in "".join(log.lines)


@pytest.mark.parametrize("log", ["json", "line"], indirect=True)
def test_secrets_at_the_wrong_place_are_not_written(client: Client, acme: Company, log: Log) -> None:
    key, text = acme.issue_key("shop")
    client.get(f"/api/stats/{text}")
    client.get(f"/api/stats/x{text}", headers={"Host": text})
    logging.getLogger("gunicorn.error").warning("Invalid HTTP Header: 'Authorization Basic Ym9zczpyaWdodA=='")
    written = "\n".join(log.lines)
    assert f"/api/stats/{key.prefix}...." in written
    assert text.partition(".")[2] not in written
    assert "Basic ..." in written


@pytest.mark.parametrize("log", ["json", "line"], indirect=True)
def test_no_secret_and_no_picture_is_written(client: Client, acme: Company, log: Log) -> None:
    headers = {"Authorization": "Api-Key hunter2", "X-API-Key": "hunter2", "Cookie": "sessionid=hunter2"}
    client.post("/api/search/acme?key=hunter2", {"image": picture(RED), "note": "hunter2"}, headers=headers)
    client.get("/api/nothing?key=hunter2", headers=headers)
    assert len(log.lines) >= 2
    assert "hunter2" not in "".join(log.lines)
    assert "PNG" not in "".join(log.lines)


@pytest.mark.usefixtures("db")
@pytest.mark.parametrize("log", ["json", "line"], indirect=True)
@pytest.mark.parametrize("sign", ["%0A", "%0D%0A", "%1B[2J", "%00", "%C2%85", "%E2%80%A8", "%FF"])
def test_nobody_writes_a_line_of_his_own(client: Client, log: Log, sign: str) -> None:
    for path in ("/api/search/x", "/api/stats/x", "/x"):
        client.get(f"{path}{sign}INFO forged", headers={"User-Agent": "x\nINFO forged"})
    logging.getLogger("search").warning("A picture named x\r\n\x1b\x85\u2028\u202e\u2067\u200b\ufeffINFO forged")
    assert len(log.lines) == 4
    assert not [line for line in log.lines if line.startswith("INFO") or not line.isprintable()]


@pytest.mark.parametrize("log", ["line"], indirect=True)
def test_a_line_for_people(client: Client, log: Log) -> None:
    client.get("/api/nothing")
    (line,) = log.lines
    assert re.fullmatch(r"[\d-]+ [\d:,]+ INFO search\.requests: GET /api/nothing 404 \d+ ms", line)


@pytest.mark.usefixtures("db", "embedder")
@pytest.mark.parametrize("path", ["/api/health/live", "/api/health/live/", "/api/health/ready", "/metrics"])
def test_what_machines_ask_all_the_time_is_not_written(client: Client, settings: Any, log: Log, path: str) -> None:
    assert client.get(path)["X-Request-ID"]
    assert not [record for record in log.records if record["logger"] == "search.requests"]
    logging.getLogger().setLevel("DEBUG")
    client.get(path)
    (line,) = [record for record in log.records if record["logger"] == "search.requests"]
    assert (line["level"], line["path"]) == ("DEBUG", path)


@pytest.mark.usefixtures("db", "embedder")
def test_the_lines_of_a_build_have_its_number(log: Log) -> None:
    build = Company.objects.create(name="acme").queue_build()
    with pytest.raises(NothingToIndex):
        carry_out_build.func(build.pk)
    (line,) = [record for record in log.records if "The build of acme failed" in record["message"]]
    assert line["build"] == build.pk
    assert "Traceback" in line["traceback"]
    logging.getLogger("search").warning("after")
    assert "build" not in log.records[-1]


def timing(response: Any) -> dict[str, float]:
    parts = [re.fullmatch(r"(\w+);dur=(\d+\.\d\d)", part) for part in response["Server-Timing"].split(", ")]
    return {part[1]: float(part[2]) for part in parts if part}


def test_a_search_tells_where_its_time_went(client: Client, acme: Company) -> None:
    took = timing(client.post("/api/search/acme", {"image": picture(RED)}))
    assert list(took) == ["index", "decode", "embed", "search", "total"]
    total = took.pop("total")
    assert total > 0
    assert sum(took.values()) <= total + 0.05  # each is rounded


def test_a_search_by_id_has_nothing_to_decode(client: Client, acme: Company) -> None:
    results = client.post("/api/search/acme", {"image": picture(RED)}).json()["results"]
    assert list(timing(client.get(f"/api/search/acme/{results[0]['id']}"))) == ["index", "search", "total"]


def test_a_refused_picture_tells_how_far_it_came(client: Client, acme: Company) -> None:
    broken = io.BytesIO(picture(RED).getvalue()[:60])
    broken.name = "query.png"
    response = client.post("/api/search/acme", {"image": broken})
    assert response.status_code == 400
    assert list(timing(response)) == ["index", "decode", "total"]


@pytest.mark.usefixtures("db")
def test_other_answers_have_no_stages(client: Client) -> None:
    assert "Server-Timing" not in client.get("/api/health")
