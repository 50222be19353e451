"""The OpenAPI document, and whether the service does what it says."""

import json
import shlex
from argparse import ArgumentParser
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import pytest
import schemathesis
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.test import Client
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from hypothesis import HealthCheck
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig

from tenants.models import Company, IndexBuild
from tests.conftest import picture
from tests.support.duplicates import look
from tests.support.fakes import BLUE, GREEN, RED, WHITE

MakeCompany = Callable[..., Company]

OPEN_PATHS = ["/api/companies", "/api/health", "/api/search/{company}", "/api/stats/{company}"]


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(Client().get("/api/schema/?format=json").content)


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


def test_the_introduction_says_which_authorisation_to_use(document: Any) -> None:
    introduction = document["info"]["description"]
    assert "curl -F image=@" in introduction
    assert "a key in the header `X-API-Key`; under *Authorize* that is ApiKeyAuth" in introduction
    schemes = document["components"]["securitySchemes"]
    assert [name for name, scheme in schemes.items() if "Use this one" in scheme["description"]] == ["ApiKeyAuth"]


def test_every_parameter_field_and_group_is_described(document: Any) -> None:
    bare = [tag["name"] for tag in document["tags"] if not tag["description"]]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert set(operation["tags"]) <= {tag["name"] for tag in document["tags"]}, path
            bare += [
                f"{path} {each['name']}" for each in operation.get("parameters", []) if not each.get("description")
            ]
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Request"):
            bare += [f"{name}.{field}" for field, about in schema["properties"].items() if "description" not in about]
    assert bare == []


def test_examples_work_against_the_demo(make_company: MakeCompany, settings: Any) -> None:
    picture_of_demo = "Things/Fish/fish-01.jpg"
    demo = make_company("demo", {picture_of_demo: RED})
    Company.objects.update(public_page=True)
    look(demo)
    IndexBuild.objects.update(id=1)  # as in a database where it is the first
    _, key = demo.issue_key("Shop", can_write=True)
    client = Client(headers={"host": "search.example.com"})
    settings.ALLOWED_HOSTS = ["search.example.com"]
    document = json.loads(client.get("/api/schema/?format=json").content)
    answers = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            command = operation["description"].splitlines()[-1].strip()
            answers[f"{method} {path}"] = _paste(client, command, key, settings.MEDIA_ROOT).status_code
    odd = {operation: status for operation, status in answers.items() if status not in (200, 201, 202)}
    assert odd == {"post /api/builds/{build_id}/cancel": 409}  # the first build has finished
    shown = document["components"]["schemas"]["ImageBody"]["properties"]
    answer = client.get(f"/api/images/demo/{picture_of_demo}").json()["image"]
    assert {name: field["example"] for name, field in shown.items()} == answer


def _paste(client: Client, command: str, key: str, media: Path) -> Any:
    """Do what curl would, in a directory with media in it."""
    parser = ArgumentParser()
    for option in ("-X", "-H", "-F", "-o", "url"):
        parser.add_argument(option)
    program, *words = shlex.split(command.replace("KEY", key))
    assert program == "curl"
    asked = parser.parse_args(words)
    url = urlsplit(asked.url)
    assert f"{url.scheme}://{url.netloc}" == "http://search.example.com"
    name, _, value = (asked.H or ":").partition(": ")
    data = {}
    if asked.F:
        field, _, file = asked.F.partition("=@")
        data[field] = (media / Path(file).relative_to("media")).open("rb")
    method = asked.X or ("POST" if data else "GET")
    body = encode_multipart(BOUNDARY, data) if data else b""
    return client.generic(
        method,
        f"{url.path}?{url.query}",
        body,
        MULTIPART_CONTENT if data else "",
        headers={name: value} if name else {},
    )


def _load(configuration: dict[str, Any]) -> Any:
    """Return the schema. Each bound of each parameter takes many requests, so they are tried where there is time."""
    coverage = {"enabled": hypothesis.settings.get_current_profile_name() == "deep"}
    config = SchemathesisConfig.from_dict({"seed": 1, "phases": {"coverage": coverage}, **configuration})
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
    schemathesis.openapi.format("crop", st.just("0,0,1,1"))

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
@(
    schemathesis.pytest.from_fixture("one_company")
    .include(path=OPEN_PATHS)
    .exclude(operation_id="search_like")  # its ids are hardly ever those of pictures
    .parametrize()
)
@bounded
def test_a_company_with_an_index_answers_every_valid_request(case: Any) -> None:
    assert case.call_and_validate().status_code == 200
