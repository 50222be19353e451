"""The admin's pages as their tests ask for them and read them."""

import re
from html import unescape
from pathlib import Path
from typing import Any

from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from search.builds import run_build
from tenants.models import Company, IndexBuild
from tests.conftest import picture
from tests.support.fakes import RED

COMPANIES = reverse("admin:tenants_company_changelist")
BUILDS = reverse("admin:tenants_indexbuild_changelist")
VIEW, CHANGE, REINDEX = "view_company", "change_company", "reindex_company"


def url(page: str, company: Company) -> str:
    return reverse(f"admin:tenants_company_{page}", args=[company.pk])


def messages(response: Any) -> str:
    return " | ".join(str(message) for message in response.context["messages"])


def text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def fragments(client: Client, page: str) -> dict[str, str]:
    return {name: text(html) for name, html in client.get(page).json()["fragments"].items()}


def logged() -> list[str]:
    return [entry.get_change_message() for entry in LogEntry.objects.order_by("pk")]


def running(company: Company, **values: Any) -> IndexBuild:
    build = company.queue_build()
    assert build.start()
    build.beat(**values)
    build.refresh_from_db()
    return build


def rebuild(company: Company) -> None:
    build = company.queue_build()
    assert build.start()
    run_build(build)


def reindex(client: Client, *companies: Company) -> Any:
    form = {"action": "reindex", "_selected_action": [company.pk for company in companies]}
    return client.post(COMPANIES, form, follow=True)


def upload(client: Client, company: Company, *files: Any, **fields: str) -> Any:
    return client.post(url("upload", company), {"files": list(files), **fields}, follow=True)


def search_names(company: Company) -> set[str]:
    response = Client().post(f"/api/search/{company.name}", {"image": picture(RED)})
    return {match["fullPath"] for match in response.json()["results"]}


def stored_below(folder: Path) -> set[str]:
    """Return everything that lies below folder, hidden leftovers too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
