"""Deleting companies in the admin, and what becomes of their files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from search.engine import storage
from tenants.models import Company, IndexBuild
from tests.conftest import Colleague, paint
from tests.support.admin import CHANGE, COMPANIES, REINDEX, VIEW, messages, running, search_names, stored_below, url
from tests.support.fakes import GREEN, RED

MakeCompany = Callable[..., Company]
commits = pytest.mark.django_db(transaction=True)


def delete(client: Client, company: Company, **choices: str) -> str:
    """Delete the company and return what the admin says. The test needs real commits, after which files go."""
    response = client.post(url("delete", company), {"post": "yes", **choices})
    assert response.status_code == 302
    assert not Company.objects.filter(pk=company.pk).exists()
    return messages(client.get(response["Location"]))


def test_deleting_asks_what_becomes_of_the_files(admin_client: Client, acme: Company) -> None:
    page = admin_client.get(url("delete", acme)).content.decode()
    for name in ("remove_index", "remove_pictures"):
        box = re.search(rf'<input type="checkbox"[^>]*name="{name}"[^>]*>', page)
        assert box
        assert "checked" not in box[0]
    assert str(acme.embeddings_directory) in page
    assert str(acme.image_directory) in page


@commits
def test_files_are_kept_unless_told_otherwise(admin_client: Client, acme: Company) -> None:
    told = delete(admin_client, acme)
    assert storage.has_index(acme.embeddings_directory)
    assert stored_below(acme.image_directory) == {"a.png", "b.png"}
    assert "The index of acme stayed on disk" in told
    assert "The pictures of acme stayed on disk" in told


@commits
def test_index_is_removed_when_told(admin_client: Client, two_generations: Company, make_company: MakeCompany) -> None:
    acme, globex = two_generations, make_company("globex", {"g.png": GREEN})
    home = acme.embeddings_directory.parent / ".generations/acme"
    assert home.is_dir()
    delete(admin_client, acme, remove_index="1")
    assert not acme.embeddings_directory.is_symlink()
    assert not home.exists()
    assert sorted(path.name for path in home.parent.iterdir()) == ["globex"]
    assert stored_below(acme.image_directory) == {"a.png", "b.png", "c.png"}
    assert search_names(globex) == {"g.png"}


@commits
def test_index_of_the_flask_service_is_removed_when_told(admin_client: Client, acme: Company) -> None:
    directory = acme.embeddings_directory
    plain = directory.resolve()
    directory.unlink()
    plain.rename(directory)
    delete(admin_client, acme, remove_index="1")
    assert not directory.exists()


@commits
def test_directory_that_holds_something_else_is_kept(admin_client: Client, db: None) -> None:
    company = Company.objects.create(name="globex")
    company.embeddings_directory.mkdir()
    (company.embeddings_directory / "thesis.doc").write_text("years of work")
    told = delete(admin_client, company, remove_index="1")
    assert "thesis.doc, which is no part of an index" in told
    assert (company.embeddings_directory / "thesis.doc").exists()


@commits
def test_what_the_link_of_an_index_leads_to_is_kept(admin_client: Client, db: None, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "faiss_index.bin").write_bytes(b"x")
    company = Company.objects.create(name="globex")
    company.embeddings_directory.symlink_to(outside)
    delete(admin_client, company, remove_index="1")
    assert not company.embeddings_directory.is_symlink()
    assert (outside / "faiss_index.bin").exists()


@commits
def test_company_without_an_index_can_be_deleted(admin_client: Client, db: None) -> None:
    company = Company.objects.create(name="globex")
    delete(admin_client, company, remove_index="1", remove_pictures="1")


@commits
def test_pictures_are_removed_when_told(admin_client: Client, acme: Company, settings: Any) -> None:
    paint(settings.MEDIA_ROOT / "globex/x.png", RED)
    delete(admin_client, acme, remove_pictures="1")
    assert stored_below(settings.MEDIA_ROOT) == {"globex/x.png"}
    assert [path.name for path in settings.MEDIA_ROOT.iterdir()] == ["globex"]
    assert storage.has_index(acme.embeddings_directory)


@commits
def test_links_among_the_pictures_are_not_followed(admin_client: Client, acme: Company, tmp_path: Path) -> None:
    paint(tmp_path / "outside/x.png", RED)
    (acme.image_directory / "out").symlink_to(tmp_path / "outside")
    delete(admin_client, acme, remove_pictures="1")
    assert not acme.image_directory.exists()
    assert (tmp_path / "outside/x.png").exists()


@commits
@pytest.mark.parametrize("folder", [".", "x/..", "globex", "globex/sub", "..", "../embeddings/x", "/OUTSIDE", "link"])
def test_pictures_that_are_not_the_companys_alone_are_kept(
    admin_client: Client, settings: Any, tmp_path: Path, folder: str
) -> None:
    globex = Company.objects.create(name="globex")
    for path in ("media/globex/sub/x.png", "embeddings/x/x.png", "outside/x.png", "media/other/x.png"):
        paint(tmp_path / path, RED)
    (settings.MEDIA_ROOT / "link").symlink_to(settings.MEDIA_ROOT / "other")
    acme = Company.objects.create(name="acme", image_folder=folder.replace("/OUTSIDE", str(tmp_path / "outside")))
    before = stored_below(tmp_path)
    page = admin_client.get(url("delete", acme)).content.decode()
    assert 'name="remove_pictures"' not in page
    assert "Its pictures stay" in page
    told = delete(admin_client, acme, remove_pictures="1")
    assert "The pictures of acme stayed on disk. " in told
    assert stored_below(tmp_path) == before
    assert Company.objects.get() == globex


@commits
def test_pictures_around_those_of_another_company_are_kept(admin_client: Client, acme: Company) -> None:
    Company.objects.create(name="globex", image_folder="acme/globex")
    told = delete(admin_client, acme, remove_pictures="1")
    assert "holds pictures of globex" in told
    assert stored_below(acme.image_directory) == {"a.png", "b.png"}


@commits
def test_folder_shared_out_to_companies_is_kept(admin_client: Client, settings: Any) -> None:
    settings.IMAGE_ROOTS = [settings.MEDIA_ROOT / "acme/shared"]
    company = Company.objects.create(name="acme")
    paint(company.image_directory / "a.png", RED)
    told = delete(admin_client, company, remove_pictures="1")
    assert "shares out" in told
    assert company.image_directory.exists()


@commits
def test_name_that_leads_elsewhere_removes_nothing(admin_client: Client, settings: Any, tmp_path: Path) -> None:
    paint(tmp_path / "outside/x.png", RED)
    company = Company.objects.create(name="../outside")  # past the form
    delete(admin_client, company, remove_index="1", remove_pictures="1")
    assert (tmp_path / "outside/x.png").exists()


@commits
def test_active_build_is_cancelled_with_its_company(
    admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = []
    cancel = IndexBuild.cancel
    monkeypatch.setattr(IndexBuild, "cancel", lambda build: cancelled.append(cancel(build)))
    running(acme)
    delete(admin_client, acme)
    assert cancelled == [True]
    assert not IndexBuild.objects.exists()


def test_delete_page_counts_instead_of_listing(admin_client: Client, skipping_build: IndexBuild) -> None:
    page = admin_client.get(url("delete", skipping_build.company)).content.decode()
    assert "Skipped images: 10000" in page
    assert "file-00000.png" not in page


def test_deleting_many_keeps_all_files_and_says_so(
    admin_client: Client, acme: Company, make_company: MakeCompany
) -> None:
    globex = make_company("globex", {"g.png": GREEN})
    running(globex)
    form = {"action": "delete_selected", "_selected_action": [acme.pk, globex.pk], "remove_index": "1"}
    assert "Indexes and pictures stay on disk" in admin_client.post(COMPANIES, form).content.decode()
    response = admin_client.post(COMPANIES, {**form, "post": "yes"}, follow=True)
    assert "indexes and pictures were kept on disk: acme, globex" in messages(response)
    assert not Company.objects.exists()
    assert storage.has_index(globex.embeddings_directory)
    assert stored_below(globex.image_directory) == {"g.png"}


def test_deleting_needs_its_permission(colleague: Colleague, acme: Company) -> None:
    client = colleague(VIEW, CHANGE, REINDEX)
    assert client.get(url("delete", acme)).status_code == 403
    assert client.post(url("delete", acme), {"post": "yes", "remove_index": "1"}).status_code == 403
    assert "delete_selected" not in client.get(COMPANIES).content.decode()
    assert storage.has_index(acme.embeddings_directory)
    assert colleague(VIEW, "delete_company").get(url("delete", acme)).status_code == 200
