"""Indexes that the server's user may not open: a 503 that names the file, and no company that vanishes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from search import runtime
from tenants.models import Company
from tests.conftest import picture
from tests.support.admin import COMPANIES, text, url
from tests.support.fakes import RED, FakeEmbedder
from tests.support.indexes import flask_directory, some_vectors
from tests.support.permissions import bound_by_permissions

MakeCompany = Callable[..., Company]


@pytest.fixture
def published(make_company: MakeCompany) -> Company:
    return make_company("acme", {"red.png": RED})


@pytest.fixture
def flask(db: None) -> Company:
    company = Company.objects.create(name="acme")
    flask_directory(company.embeddings_directory, some_vectors(2), ["a.png", "b.png"])
    return company


@pytest.fixture(params=["published", "flask"])
def acme(request: pytest.FixtureRequest, embedder: FakeEmbedder) -> Company:
    company: Company = request.getfixturevalue(request.param)
    runtime.reset()  # nothing is in memory
    runtime.use(embedder)
    return company


@contextmanager
def hidden(acme: Company, file: str) -> Iterator[None]:
    """Let nobody open a file of the index until the end of the block; "": the directory that holds them all."""
    path = acme.embeddings_directory.resolve() / file
    mode = path.stat().st_mode
    path.chmod(0o000)
    try:
        with bound_by_permissions():
            yield
    finally:
        path.chmod(mode)


def search(company: str = "acme") -> Any:
    return Client(raise_request_exception=False).post(f"/api/search/{company}", {"image": picture(RED)})


HIDDEN = ["", "faiss_index.bin", "metadata.json", "index_info.json"]


@pytest.mark.parametrize("file", HIDDEN)
def test_an_index_that_may_not_be_opened_is_a_503_that_names_the_file(acme: Company, file: str) -> None:
    with hidden(acme, file):
        answers = [search(), Client(raise_request_exception=False).get("/api/stats/acme")]
    codes = [answer.status_code for answer in answers]
    if file == "metadata.json":  # which is not asked how many pictures there are
        assert codes == [503, 200]
    else:
        assert codes == [503, 503]
    assert answers[0].json()["error"] == f"{file or 'faiss_index.bin'} cannot be read: Permission denied"
    assert search().status_code == 200


@pytest.mark.parametrize("file", HIDDEN)
def test_a_company_whose_index_may_not_be_opened_is_still_listed(
    acme: Company, admin_client: Client, file: str
) -> None:
    with hidden(acme, file):
        listed = Client().get("/api/companies").json()["companies"]
        pages = [admin_client.get(COMPANIES), admin_client.get(url("change", acme)), admin_client.get("/api/health")]
    assert [entry["name"] for entry in listed] == ["acme"]
    assert [page.status_code for page in pages] == [200, 200, 200]
    if file != "metadata.json":
        assert "cannot be read: Permission denied" in text(pages[0].content.decode())


@pytest.mark.parametrize("file", HIDDEN)
def test_a_check_tells_what_may_not_be_opened_and_goes_on(acme: Company, make_company: MakeCompany, file: str) -> None:
    make_company("globex", {"red.png": RED})
    out = StringIO()
    with hidden(acme, file), pytest.raises(CommandError, match="1 of 2 companies"):
        call_command("check_index", all=True, stdout=out)
    assert f"acme: DAMAGED. {file or 'faiss_index.bin'} cannot be read: Permission denied" in out.getvalue()
    assert "globex: ok" in out.getvalue()


def test_adoption_passes_over_what_may_not_be_opened(flask: Company, settings: Any, embedder: FakeEmbedder) -> None:
    flask_directory(settings.EMBEDDINGS_DIR / "globex", some_vectors(2), ["a.png", "b.png"])
    Company.objects.all().delete()
    with hidden(flask, ""):
        call_command("adopt_companies", stdout=StringIO())
    assert [company.name for company in Company.objects.all()] == ["globex"]


def test_all_generations_may_be_hidden(published: Company, admin_client: Client, embedder: FakeEmbedder) -> None:
    runtime.reset()
    runtime.use(embedder)
    with hidden(published, ".."):
        answer, listed = search(), Client().get("/api/companies").json()["companies"]
        pages = [admin_client.get(COMPANIES), admin_client.get(url("change", published))]
    assert (answer.status_code, [entry["name"] for entry in listed]) == (503, ["acme"])
    assert "Permission denied" in answer.json()["error"]
    assert ["Permission denied" in text(page.content.decode()) for page in pages] == [True, True]
