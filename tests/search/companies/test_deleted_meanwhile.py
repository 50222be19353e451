"""A company that is deleted in the midst of a request for it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from search import runtime
from search.companies.removal import delete_company
from tenants.audit import on_command_line
from tenants.models import Company, LiveChange
from tests.conftest import picture
from tests.support.fakes import RED, WHITE, FakeEmbedder

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def deleted_after_it_is_found(company: Company) -> Iterator[None]:
    """Delete the company when its row is read for the second time."""
    reads = []

    def look_on(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if sql.startswith("SELECT") and 'FROM "tenants_company"' in sql:
            reads.append(sql)
            if len(reads) == 2:
                delete_company(company, by=on_command_line(), remove_index=True, remove_pictures=True)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(look_on):
        yield
    assert len(reads) > 1


@pytest.mark.parametrize("path", ["/api/search/acme", "/api/stats/acme", "/api/images/acme"])
def test_a_request_whose_company_is_deleted_meanwhile_is_a_400(
    make_company: Callable[..., Company], embedder: FakeEmbedder, path: str
) -> None:
    acme = make_company("acme", {"a.png": RED})
    runtime.reset()  # it is not in memory
    runtime.use(embedder)
    if path == "/api/stats/acme":
        shutil.rmtree(acme.embeddings_directory.resolve())  # or nothing needs the row again
    with deleted_after_it_is_found(acme):
        client = Client(raise_request_exception=False)
        answer = client.post(path, {"image": picture(RED)}) if "search" in path else client.get(path)
    assert (answer.status_code, answer.json()["success"]) == (400, False)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_change_to_a_company_that_is_deleted_meanwhile_is_a_400_and_leaves_nothing(
    make_company: Callable[..., Company], method: str
) -> None:
    acme = make_company("acme", {"a.png": RED})
    client = Client(headers={"X-API-Key": acme.issue_key("shop", can_write=True)[1]}, raise_request_exception=False)
    with deleted_after_it_is_found(acme):
        content = picture(WHITE).getvalue() if method == "PUT" else b""
        answer = client.generic(method, "/api/images/acme/a.png", content, content_type="image/png")
    assert answer.status_code == 400
    assert not LiveChange.objects.exists()
    assert list(acme.image_directory.rglob("*.png")) == []
