import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from search import queries
from tenants.models import Company
from tests.conftest import picture
from tests.support.fakes import BLUE, RED

MakeCompany = Callable[..., Company]
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_health_counts_the_companies_and_names_the_loaded(client: Client, make_company: MakeCompany) -> None:
    make_company("acme", {"a.png": RED})
    make_company("globex", {"b.png": BLUE})
    Company.objects.create(name="unbuilt")
    client.post("/api/search/acme", {"image": picture(RED)})
    body = client.get("/api/health").json()
    assert TIMESTAMP.fullmatch(body.pop("timestamp"))
    assert body == {
        "status": "healthy",
        "api_ready": True,
        "total_companies_available": 2,
        "loaded_companies": ["acme"],
        "loaded_count": 1,
    }


def test_companies_lists_those_with_an_index(client: Client, make_company: MakeCompany) -> None:
    make_company("acme", {"a.png": RED})
    make_company("off", {"a.png": RED})
    Company.objects.filter(name="off").update(active=False)
    Company.objects.create(name="unbuilt")
    assert client.get("/api/companies/").json() == {
        "success": True,
        "companies": [{"name": "acme", "embeddings_path": "embeddings/acme", "loaded": False}],
        "total": 1,
    }


def test_stats_tell_of_the_index(client: Client, make_company: MakeCompany) -> None:
    make_company("acme", {"a.png": RED, "b.png": BLUE})
    body = client.get("/api/stats/acme").json()
    info = body["stats"]["index_info"]
    assert TIMESTAMP.fullmatch(info.pop("timestamp"))
    assert info == {
        "total_images": 2,
        "embedding_dimension": 960,
        "model": "MobileNetV3-Large",
        "weights": "fake-weights",
        "fingerprint": "f" * 64,
    }
    assert body["stats"]["total_images"] == 2
    assert (body["success"], body["company"]) == (True, "acme")


@pytest.mark.parametrize("path", ["/api/stats/nobody", "/api/stats/..%2Fetc", "/api/stats/nobody/"])
def test_stats_of_an_unknown_company_are_a_400(client: Client, db: None, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 400
    assert response.json()["error"].endswith("not found")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/api/search/acme", 405),
        ("delete", "/api/health", 405),
        ("post", "/api/companies", 405),
        ("get", "/api/nothing", 404),
        ("post", "/api/nothing/", 404),
        ("get", "/api/", 404),
    ],
)
def test_wrong_methods_and_paths_answer_in_the_same_shape(
    client: Client, db: None, method: str, path: str, status: int
) -> None:
    response = getattr(client, method)(path)
    assert response.status_code == status
    assert response.json()["success"] is False
    assert response.json()["error"]


def test_a_fault_of_ours_is_a_500_in_the_same_shape(client: Client, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(queries, "companies_with_index", broken)
    client.raise_request_exception = False
    response = client.get("/api/health")
    assert response.status_code == 500
    assert response.json()["success"] is False
    assert "secret detail" not in response.json()["error"]


def test_a_forged_host_is_a_400_in_the_same_shape(client: Client, db: None) -> None:
    response = client.get("/api/health", HTTP_HOST="evil.example")
    assert response.status_code == 400
    assert response.json()["success"] is False


def test_the_documentation_page_loads_nothing_from_elsewhere(client: Client, db: None) -> None:
    page = client.get("/api/docs/").content.decode()
    assert "//cdn" not in page
    assert client.get("/api/docs/?script=").status_code == 200
