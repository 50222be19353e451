"""The page of a company in the admin: what it shows, and saving it."""

import re
from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse

from search.engine.model.passport import ModelPassport
from tenants.models import Company, IndexBuild, SkippedImage
from tests.support.admin import COMPANIES, fragments, messages, rebuild, text, url
from tests.support.fakes import RED, FakeEmbedder

MakeCompany = Callable[..., Company]


def test_a_company_is_made_with_a_name_that_stays(admin_client: Client, db: None) -> None:
    admin_client.post(reverse("admin:tenants_company_add"), {"name": "acme", "active": "on"})
    acme = Company.objects.get(name="acme")
    page = reverse("admin:tenants_company_change", args=[acme.pk])
    assert 'name="name"' not in admin_client.get(page).content.decode()
    admin_client.post(page, {"name": "globex", "notes": "calls on Mondays"})
    acme.refresh_from_db()
    assert (acme.name, acme.notes, acme.active) == ("acme", "calls on Mondays", False)


@pytest.mark.parametrize("form", [{"name": "../x"}, {"name": "ACME"}, {"name": "new", "image_folder": "/etc"}])
def test_a_company_that_may_not_be_is_refused_with_the_reason(
    admin_client: Client, db: None, form: dict[str, str]
) -> None:
    Company.objects.create(name="acme")
    response = admin_client.post(reverse("admin:tenants_company_add"), form)
    assert response.status_code == 200
    assert "errorlist" in response.content.decode()
    assert Company.objects.count() == 1


def test_changed_folder_asks_for_a_reindex(admin_client: Client, acme: Company) -> None:
    response = admin_client.post(url("change", acme), {"image_folder": "other", "active": "on"}, follow=True)
    assert "reindex it" in messages(response)


def test_history_shows_counts_and_reasons(admin_client: Client, acme: Company) -> None:
    (acme.image_directory / "broken.png").write_bytes(b"not a picture")
    rebuild(acme)
    build = acme.queue_build()
    build.start()
    build.fail("out of disk")
    shown = fragments(admin_client, url("live", acme))
    assert "out of disk" in shown["history"]
    assert "First build: all pictures were processed" in shown["history"]
    assert "1 file skipped" in shown["skipped"]
    assert "broken.png Not a picture of an allowed type" in shown["skipped"]
    assert "The last build failed. out of disk" in shown["overview"]


@pytest.mark.parametrize("wish", ["full", "fold"])
def test_history_does_not_say_of_a_build_that_did_not_finish_what_it_was_to_do(admin_client: Client, wish: str) -> None:
    acme = Company.objects.create(name="acme")
    build = acme.queue_build(full=wish == "full", fold=wish == "fold")
    build.cancel()
    for _ in ("cancelled", "queued"):
        history = fragments(admin_client, url("live", acme))["history"]
        assert "were processed" not in history
        assert "were merged" not in history
        assert f"Requested: {build.description}" in history
        acme.queue_build(full=wish == "full", fold=wish == "fold")


def test_built_in_weights_are_said_on_the_page_with_better_ones(
    admin_client: Client, make_company: MakeCompany, embedder: FakeEmbedder
) -> None:
    def page(company: Company) -> str:
        return text(admin_client.get(url("change", company)).content.decode())

    assert "Built-in weights." not in page(make_company("acme", {"a.png": RED}))
    embedder.passport = ModelPassport("builtin", "0" * 64)
    shown = page(make_company("demo", {"a.png": RED}))
    assert "Built-in weights. Searches of this index find copies" in shown
    assert "IMAGESEARCH_WEIGHTS=IMAGENET1K_V1" in shown


def test_no_page_has_inline_scripts_or_styles(admin_client: Client, acme: Company) -> None:
    pages = [COMPANIES, url("change", acme), url("delete", acme), reverse("admin:tenants_company_add")]
    pages.append(reverse("admin:tenants_indexbuild_change", args=[acme.builds.get().pk]))
    for page in pages:
        html = admin_client.get(page).content.decode()
        assert not re.search(r"<script(?![^>]*src=)", html), page
        assert not re.search(r"<style|\sstyle=|\son\w+=", html), page


def test_company_names_and_file_names_are_escaped(admin_client: Client, acme: Company) -> None:
    build = acme.builds.get()
    build_pk = build.pk
    SkippedImage.objects.create(build=build, path="<script>alert(1)</script>.png", reason="<b>")
    IndexBuild.objects.filter(pk=build_pk).update(images_skipped=1, error="<i>")
    for html in (
        admin_client.get(url("change", acme)).content.decode(),
        *admin_client.get(url("live", acme)).json()["fragments"].values(),
        admin_client.get(reverse("admin:tenants_indexbuild_change", args=[build_pk])).content.decode(),
    ):
        assert "<script>alert" not in html
        assert "<b>" not in html
        assert "<i>" not in html


def test_live_changes_have_no_pages(admin_client: Client, db: None) -> None:
    assert admin_client.get("/admin/tenants/livechange/").status_code == 404
