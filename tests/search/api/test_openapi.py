"""The OpenAPI document, and whether the service does what it says."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import hypothesis
import pytest
import schemathesis
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.test import Client
from hypothesis import HealthCheck
from schemathesis.config import SchemathesisConfig

from tenants.models import Company
from tests.conftest import picture
from tests.support.fakes import BLUE, GREEN, RED, WHITE

MakeCompany = Callable[..., Company]

OPEN_PATHS = ["/api/companies", "/api/health", "/api/search/{company}", "/api/stats/{company}"]


@pytest.fixture
def document(client: Client) -> Any:
    return json.loads(client.get("/api/schema/?format=json").content)


def test_schema_is_valid_and_complete() -> None:
    out = StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=out)
    assert "/api/search/{company}" in out.getvalue()


def test_schema_lists_each_path_once(document: Any) -> None:
    assert set(document["paths"]) >= set(OPEN_PATHS)
    assert not [path for path in document["paths"] if path.endswith("/")]


def test_schema_tells_the_shape_of_every_error(document: Any) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            errors = {code: answer for code, answer in operation["responses"].items() if int(code) >= 400}
            assert "500" in errors
            for answer in errors.values():
                assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
                assert answer["description"]
    error = document["components"]["schemas"]["ErrorBody"]
    assert set(error["required"]) == {"success", "error", "code"}
    assert error["properties"]["success"]["type"] == "boolean"


def test_schema_tells_that_the_image_is_a_file(document: Any) -> None:
    body = document["paths"]["/api/search/{company}"]["post"]["requestBody"]["content"]
    name = body["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
    form = document["components"]["schemas"][name]
    assert form["properties"]["image"]["format"] == "binary"
    assert (form["properties"]["top_k"]["default"], form["properties"]["top_k"]["minimum"]) == (10, 1)
    assert form["required"] == ["image"]


def test_schema_shows_errors_as_they_come(document: Any) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    example = answer["content"]["application/json"]["example"]
                    assert (example["success"], bool(example["error"]), bool(example["code"])) == (False, True, True)


def test_trying_a_search_out_finds_something(client: Client, acme: Company, document: Any) -> None:
    """With what Swagger fills in: the example of a field, its default, or the highest of its numbers."""
    operation = document["paths"]["/api/search/{company}"]["post"]
    name = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
    fields = document["components"]["schemas"][name]["properties"]
    form = {each: fields[each].get("example", fields[each].get("default")) for each in fields if each != "image"}
    assert None not in form.values()
    response = client.post("/api/search/acme", {**form, "image": picture(WHITE)})
    assert len(response.json()["results"]) == 3


def test_search_comes_first_and_everything_has_a_summary(document: Any) -> None:
    assert next(iter(document["paths"])) == "/api/search/{company}"
    for path in document["paths"].values():
        for operation in path.values():
            assert 10 < len(operation["summary"]) < 120
            assert not operation["summary"].endswith(".")


def _load(configuration: dict[str, Any]) -> Any:
    config = SchemathesisConfig.from_dict({"seed": 1, **configuration})
    return schemathesis.openapi.from_wsgi("/api/schema/?format=json", get_wsgi_application(), config=config)


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"Warm/red.png": RED, "blue.png": BLUE, "green.jpg": GREEN})


@pytest.fixture
def any_company(acme: Company, settings: Any) -> Any:
    """Return the schema with names of any kind: by contract an unknown company is a 400, though the name is valid."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the others are slow on purpose
    settings.RATE_WRONG_LOGINS = None  # or most requests would get no further
    accepted = ["2xx", "400", "401", "403", "404", "409"]
    return _load({"checks": {"positive_data_acceptance": {"expected-statuses": accepted}}})


@pytest.fixture
def one_company(acme: Company) -> Any:
    """Return the schema for valid requests to a company with an index, whose images are pictures for everybody."""
    Company.objects.update(public_page=True)
    schema = _load({"parameters": {"company": "acme"}, "generation": {"mode": "positive"}})

    @schema.hook
    def map_body(context: Any, body: dict[str, Any]) -> dict[str, Any]:
        location = body.get("location", "").replace("\0", "")  # which the schema has no word for
        return {**body, "location": location, "image": picture(RED).getvalue()}

    return schema


bounded = hypothesis.settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.fuzz
@schemathesis.pytest.from_fixture("any_company").parametrize()
@bounded
def test_service_does_as_its_schema_says(case: Any) -> None:
    case.call_and_validate()


@pytest.mark.fuzz
@schemathesis.pytest.from_fixture("one_company").include(path=OPEN_PATHS).parametrize()
@bounded
def test_a_company_with_an_index_answers_every_valid_request(case: Any) -> None:
    assert case.call_and_validate().status_code == 200
