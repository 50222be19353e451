"""Deleting companies in the admin, and what becomes of their files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from search.engine import storage
from search.tasks import look_after_companies
from tenants.models import AuditEvent, Company, IndexBuild
from tests.conftest import Colleague, paint, picture
from tests.support.admin import (
    CHANGE,
    COMPANIES,
    REINDEX,
    VIEW,
    messages,
    rebuild,
    running,
    search_names,
    stored_below,
    text,
    url,
)
from tests.support.fakes import GREEN, RED, FakeEmbedder
from tests.support.indexes import flask_directory, some_vectors
from tests.support.permissions import bound_by_permissions

MakeCompany = Callable[..., Company]
commits = pytest.mark.django_db(transaction=True)


def delete(client: Client, company: Company, **choices: str) -> str:
    """Delete the company and return what the admin says. The test needs real commits, after which files go."""
    response = client.post(url("delete", company), {"post": "yes", **choices})
    assert response.status_code == 302
    assert not Company.objects.filter(pk=company.pk).exists()
    return messages(client.get(response["Location"]))


def box(page: str, name: str) -> str:
    """Return the check box of this name."""
    found = re.search(rf'<input type="checkbox"[^>]*name="{name}"[^>]*>', page)
    assert found
    return found[0]


def test_deleting_asks_what_becomes_of_the_files(admin_client: Client, acme: Company) -> None:
    page = admin_client.get(url("delete", acme)).content.decode()
    assert "checked" in box(page, "remove_index")  # a build makes it again
    assert "checked" not in box(page, "remove_pictures")
    assert str(acme.embeddings_directory) in page
    assert str(acme.image_directory) in page
    assert "It can be rebuilt from the pictures, with the same ids." in text(page)
    assert "acme comes back at the next start of the service" in text(page)


def test_an_index_with_ids_of_another_program_is_not_ticked_to_be_removed(
    admin_client: Client, make_company: MakeCompany, embedder: FakeEmbedder
) -> None:
    company = Company.objects.create(name="acme")
    flask_directory(company.embeddings_directory, some_vectors(2), ["a.png", "b.png"])
    for name in ("a.png", "b.png"):
        paint(company.image_directory / name, RED)
    for _ in range(2):  # as it came, and built anew
        page = admin_client.get(url("delete", company)).content.decode()
        assert "checked" not in box(page, "remove_index")
        assert "Removing it loses: 2 ids from another program" in text(page)
        assert "not in" not in text(page)
        rebuild(company)
        company.refresh_from_db()


def test_an_index_of_pictures_that_are_not_in_the_folder_is_not_ticked_to_be_removed(
    admin_client: Client, acme: Company
) -> None:
    (acme.image_directory / "a.png").unlink()
    page = admin_client.get(url("delete", acme)).content.decode()
    assert "checked" not in box(page, "remove_index")
    missing = f"vectors of pictures that are not in {acme.image_directory} (1 of 2 checked)"
    assert f"Removing it loses: {missing}" in text(page)


def test_pictures_that_were_put_and_deleted_one_by_one_are_not_missing(admin_client: Client, acme: Company) -> None:
    _, key = acme.issue_key("shop", can_write=True)
    client = Client(headers={"X-API-Key": key})
    client.put("/api/images/acme/c.png", picture(GREEN).getvalue(), content_type="image/png")
    client.delete("/api/images/acme/a.png")
    page = admin_client.get(url("delete", acme)).content.decode()
    assert "checked" in box(page, "remove_index")


def test_a_damaged_index_is_not_ticked_to_be_removed(admin_client: Client, acme: Company) -> None:
    (acme.embeddings_directory / "index_info.json").write_text("{")
    page = admin_client.get(url("delete", acme)).content.decode()
    assert "checked" not in box(page, "remove_index")
    assert "unknown: index_info.json cannot be read" in text(page)


def test_a_company_without_an_index_has_none_to_remove(admin_client: Client, db: None) -> None:
    page = admin_client.get(url("delete", Company.objects.create(name="acme"))).content.decode()
    assert 'name="remove_index"' not in page
    assert "It has no index." in page


@commits
def test_files_are_kept_unless_told_otherwise(admin_client: Client, acme: Company) -> None:
    told = delete(admin_client, acme)
    assert storage.has_index(acme.embeddings_directory)
    assert stored_below(acme.image_directory) == {"a.png", "b.png"}
    assert "Kept on disk: the index of acme" in told
    assert "Kept on disk: the pictures of acme" in told


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
    assert "thesis.doc, which is no index file" in told
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
@pytest.mark.parametrize("choices", [{}, {"remove_index": "1"}])
def test_a_company_without_an_index_leaves_nothing(
    admin_client: Client, settings: Any, choices: dict[str, str]
) -> None:
    company = Company.objects.create(name="globex")
    assert stored_below(settings.EMBEDDINGS_DIR)
    delete(admin_client, company, **choices)
    assert stored_below(settings.EMBEDDINGS_DIR) == set()


@commits
def test_an_index_that_is_kept_comes_back_inactive_and_as_protected_as_it_was(
    admin_client: Client, acme: Company
) -> None:
    admin_client.post(url("change", acme), {"active": "on", "requires_api_key": "on", "daily_quota": "7"})
    delete(admin_client, acme)
    call_command("adopt_companies")
    again = Company.objects.get()
    assert (again.active, again.requires_api_key, again.daily_quota) == (False, True, 7)
    assert Client().get("/api/stats/acme").status_code == 400


@commits
def test_a_process_killed_right_after_the_deletion_leaves_nothing_that_is_opened_again(
    admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "erase", die)
    with pytest.raises(KeyboardInterrupt):
        delete(admin_client, acme, remove_index="1")
    call_command("adopt_companies")
    assert not Company.objects.get().active


@commits
def test_an_index_that_cannot_be_marked_as_inactive_is_told(admin_client: Client, acme: Company, settings: Any) -> None:
    home = settings.EMBEDDINGS_DIR / ".generations/acme"
    home.chmod(0o555)
    with bound_by_permissions():
        told = delete(admin_client, acme)
    home.chmod(0o755)
    assert "It could not be marked as inactive (Permission denied)" in told


@commits
def test_what_a_killed_process_left_of_a_removal_goes_when_a_worker_starts(
    admin_client: Client, acme: Company, settings: Any
) -> None:
    for half in (settings.MEDIA_ROOT / ".removed-0", settings.EMBEDDINGS_DIR / ".generations/.removed-0/generations"):
        paint(half / "sub/a.png", RED)
    settings.MEDIA_ROOT.chmod(0o555)
    with bound_by_permissions():
        look_after_companies()  # starts all the same
    settings.MEDIA_ROOT.chmod(0o755)
    look_after_companies()
    for place in (settings.MEDIA_ROOT, settings.EMBEDDINGS_DIR / ".generations"):
        assert [path.name for path in place.iterdir()] == ["acme"]


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
    before = pictures_below(tmp_path)
    page = admin_client.get(url("delete", acme)).content.decode()
    assert 'name="remove_pictures"' not in page
    assert "Its pictures are kept" in page
    told = delete(admin_client, acme, remove_pictures="1")
    assert "Kept on disk: the pictures of acme. " in told
    assert pictures_below(tmp_path) == before
    assert Company.objects.get() == globex


def pictures_below(folder: Path) -> set[str]:
    return {path for path in stored_below(folder) if path.endswith(".png")}


@commits
def test_pictures_around_those_of_another_company_are_kept(admin_client: Client, acme: Company) -> None:
    Company.objects.create(name="globex", image_folder="acme/globex")
    told = delete(admin_client, acme, remove_pictures="1")
    assert "overlaps with the image folder of another company" in told
    assert stored_below(acme.image_directory) == {"a.png", "b.png"}


@commits
def test_folder_shared_out_to_companies_is_kept(admin_client: Client, settings: Any) -> None:
    settings.IMAGE_ROOTS = [settings.MEDIA_ROOT / "acme/shared"]
    company = Company.objects.create(name="acme")
    paint(company.image_directory / "a.png", RED)
    told = delete(admin_client, company, remove_pictures="1")
    assert "one of IMAGESEARCH_IMAGE_ROOTS" in told
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
    assert "Skipped images: 1200" in page
    assert "file-00000.png" not in page


@commits
def test_deleting_many_keeps_all_files_closes_all_and_says_so(
    admin_client: Client, acme: Company, make_company: MakeCompany
) -> None:
    globex = make_company("globex", {"g.png": GREEN})
    running(globex)
    form = {"action": "delete_selected", "_selected_action": [acme.pk, globex.pk], "remove_index": "1"}
    asked = text(admin_client.post(COMPANIES, form).content.decode())
    assert "Indexes and pictures are kept on disk" in asked
    assert "comes back at the next start of the service, as an inactive company" in asked
    response = admin_client.post(COMPANIES, {**form, "post": "yes"}, follow=True)
    assert "indexes and pictures were kept on disk: acme, globex" in messages(response)
    assert not Company.objects.exists()
    assert storage.has_index(globex.embeddings_directory)
    assert stored_below(globex.image_directory) == {"g.png"}
    call_command("adopt_companies")
    assert [(company.name, company.active) for company in Company.objects.all()] == [("acme", False), ("globex", False)]


@commits
def test_the_audit_names_the_deleted_company_by_its_key(admin_client: Client, acme: Company) -> None:
    delete(admin_client, acme, remove_index="1", remove_pictures="1")
    events = AuditEvent.objects.filter(action="company deleted").order_by("pk")
    assert [(event.actor, event.company_key, event.detail) for event in events] == [
        ("ann", acme.pk, ""),
        ("ann", acme.pk, "index removed from disk"),
        ("ann", acme.pk, "pictures removed from disk"),
    ]


def test_deleting_needs_its_permission(colleague: Colleague, acme: Company) -> None:
    client = colleague(VIEW, CHANGE, REINDEX)
    assert client.get(url("delete", acme)).status_code == 403
    assert client.post(url("delete", acme), {"post": "yes", "remove_index": "1"}).status_code == 403
    assert "delete_selected" not in client.get(COMPANIES).content.decode()
    assert storage.has_index(acme.embeddings_directory)
    assert colleague(VIEW, "delete_company").get(url("delete", acme)).status_code == 200
