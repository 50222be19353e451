"""An index that is back without its row, or with an older one: it is served, and changes count in all processes."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.utils import timezone

from search import publication, runtime
from search.companies.adoption import adopt_companies
from search.companies.removal import delete_company
from search.companies.rollback import roll_back
from search.tasks import carry_out_build, look_after_companies
from tenants.audit import on_command_line
from tenants.models import Company, IndexBuild, LiveChange
from tests.conftest import paint, picture
from tests.support.admin import COMPANIES, search_names, url
from tests.support.fakes import BLUE, GREEN, RED, WHITE, FakeEmbedder
from tests.support.processes import Site, copy_sqlite, database
from tests.support.servers import forked_server
from tests.support.waiting import eventually

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
pytestmark = on_sqlite


def build(company: Company) -> None:
    carry_out_build.func(company.queue_build().pk)


def writing_client(company: Company) -> Client:
    return Client(headers={"X-API-Key": company.issue_key("shop", can_write=True)[1]})


def put(company: Company, name: str) -> None:
    content = picture(WHITE).getvalue()
    answer = writing_client(company).put(f"/api/images/acme/{name}", content, content_type="image/png")
    assert answer.status_code == 201


@contextmanager
def other_database(site: Site, url: str) -> Iterator[None]:
    """Put another database in the place of the site's; the processes begin anew, as after a restart."""
    before, site.database_url = site.database_url, url
    connections["default"].close()
    with database(url):
        restart()
        yield
    site.database_url = before


def restart() -> None:
    """Forget what this process has in memory, as one that has just begun."""
    embedder = runtime.embedder()
    runtime.reset()
    runtime.use(embedder)


def backup(site: Site) -> Path:
    copy = site.directory / "backup.sqlite3"
    with closing(sqlite3.connect(site.directory / "db.sqlite3")) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


@pytest.fixture
def acme(site: Site, embedder: FakeEmbedder) -> Company:
    """A company with an index of two pictures, and a third that was put."""
    company = Company.objects.create(name="acme")
    for name, colour in {"a.png": RED, "b.png": BLUE}.items():
        paint(company.image_directory / name, colour)
    build(company)
    put(company, "put.png")
    return company


# How it comes back: each leaves a database in which acme is active and has three pictures ---------------------------


@contextmanager
def deleted_with_its_index_kept(site: Site, acme: Company, tables: Path) -> Iterator[None]:
    build(acme)
    delete_company(acme, by=on_command_line())
    assert site.manage("adopt_companies").wait() == 0
    admin = Client()
    admin.force_login(User.objects.create_superuser("ann"))
    company = Company.objects.get()
    assert not company.active
    admin.post(url("change", company), {"active": "on"})
    assert admin.get(COMPANIES).status_code == 200
    yield


@contextmanager
def added_again_by_a_build(site: Site, acme: Company, tables: Path) -> Iterator[None]:
    build(acme)
    delete_company(acme, by=on_command_line())
    refused = site.manage("build_embeddings", "--company=acme")
    assert refused.wait() == 1
    assert "give --earlier-index use, or --earlier-index remove" in refused.output
    assert "Traceback" not in refused.output
    assert not Company.objects.exists()
    again = site.manage("build_embeddings", "--company=acme", "--earlier-index=use")
    assert again.wait() == 0, again.output
    assert "acme is inactive: its earlier index was inactive or does not say" in again.output
    company = Company.objects.get()
    company.active = True
    company.save()
    yield


@contextmanager
def found_after_the_database_was_lost(site: Site, acme: Company, tables: Path) -> Iterator[None]:
    build(acme)
    empty = copy_sqlite(tables, site.directory / "empty.sqlite3")
    with other_database(site, empty):
        assert site.manage("adopt_companies").wait() == 0
        yield


@contextmanager
def older_database_whose_generation_is_pruned(site: Site, acme: Company, tables: Path) -> Iterator[None]:
    copy = backup(site)
    for colour in (RED, GREEN, BLUE):
        paint(acme.image_directory / "a.png", colour)
        build(acme)
    with other_database(site, f"sqlite:///{copy}"):
        yield


@contextmanager
def older_database_whose_generation_is_there(site: Site, acme: Company, tables: Path) -> Iterator[None]:
    copy = backup(site)
    put(acme, "later.png")
    build(acme)
    writing_client(acme).delete("/api/images/acme/later.png")
    build(acme)
    with other_database(site, f"sqlite:///{copy}"):
        yield


@contextmanager
def older_database_that_knows_no_generation(site: Site, acme: Company, tables: Path) -> Iterator[None]:
    copy = backup(site)
    build(acme)
    with other_database(site, f"sqlite:///{copy}"):
        Company.objects.update(generation=None, live_sequence=0, live_floor=0)
        LiveChange.objects.all().delete()
        yield


@pytest.mark.parametrize(
    "comes_back",
    [
        deleted_with_its_index_kept,
        pytest.param(found_after_the_database_was_lost, marks=pytest.mark.slow),
        older_database_whose_generation_is_pruned,
        pytest.param(added_again_by_a_build, marks=pytest.mark.slow),
        pytest.param(older_database_whose_generation_is_there, marks=pytest.mark.slow),
        pytest.param(older_database_that_knows_no_generation, marks=pytest.mark.slow),
    ],
)
def test_changes_to_an_index_that_is_back_are_seen_by_all_processes_and_folded(
    site: Site, acme: Company, sqlite_tables: Path, comes_back: Callable[[Site, Company, Path], Any]
) -> None:
    with comes_back(site, acme, sqlite_tables):
        company = Company.objects.get()
        servers = [forked_server(site), forked_server(site)]
        for server in servers:
            assert set(server.found("acme", RED)) == {"a.png", "b.png", "put.png"}
        assert search_names(company) == {"a.png", "b.png", "put.png"}

        key = company.issue_key("shop", can_write=True)[1]
        servers[0].put("acme", "new.png", GREEN, key)
        servers[1].delete("acme", "b.png", key)
        for server in servers:
            assert set(server.found("acme", RED)) == {"a.png", "put.png", "new.png"}
        assert search_names(company) == {"a.png", "put.png", "new.png"}

        company.refresh_from_db()
        assert company.fold_planned_at is not None
        LiveChange.objects.update(changed_at=timezone.now() - timedelta(days=2))  # time passes
        site.worker()
        eventually(lambda: IndexBuild.objects.filter(fold=True, status="succeeded").exists(), "a fold")
        company.refresh_from_db()
        assert publication.info(company).live_sequence == company.live_sequence
        assert publication.info(company).total_images == 3
        for server in servers:
            assert set(server.found("acme", RED)) == {"a.png", "put.png", "new.png"}


def test_going_on_to_the_index_that_is_ahead_keeps_what_was_put_and_deleted_since(
    site: Site, acme: Company, sqlite_tables: Path
) -> None:
    with older_database_whose_generation_is_there(site, acme, sqlite_tables):
        company = Company.objects.get()
        put(company, "new.png")
        assert writing_client(company).delete("/api/images/acme/b.png").status_code == 200
        newest = publication.generations(company)[0]
        assert newest.info.holds_changes_to > 2
        roll_back(company, newest.name, by=on_command_line())
        assert search_names(company) == {"a.png", "put.png", "new.png"}


# Changes that the index lacked when its company was deleted ----------------------------------------------------------


def by_adoption(site: Site) -> None:
    assert site.manage("adopt_companies").wait() == 0


def by_a_command(site: Site) -> None:
    assert site.manage("build_embeddings", "--company=acme", "--enqueue", "--earlier-index=use").wait() == 0
    IndexBuild.objects.all().delete()


def in_the_admin(site: Site) -> None:
    admin = Client()
    admin.force_login(User.objects.create_superuser("ann"))
    admin.post("/admin/tenants/company/add/", {"name": "acme", "active": "on", "earlier_index": "use"})


@pytest.mark.parametrize("comes_back", [by_adoption, by_a_command, in_the_admin])
def test_what_was_put_and_deleted_before_a_company_was_deleted_stays_so_when_its_index_comes_back(
    site: Site, acme: Company, comes_back: Callable[[Site], None]
) -> None:
    assert writing_client(acme).delete("/api/images/acme/b.png").status_code == 200
    delete_company(acme, by=on_command_line())
    comes_back(site)
    company = Company.objects.get()
    assert not company.active
    Company.objects.update(active=True)
    assert search_names(company) == {"a.png", "put.png"}
    put(company, "new.png")
    assert search_names(company) == {"a.png", "put.png", "new.png"}
    build(company)
    assert publication.info(Company.objects.get()).total_images == 3


def test_another_index_than_the_one_that_lacked_the_changes_gets_none_of_them(site: Site, acme: Company) -> None:
    other = shutil.copytree(acme.embeddings_directory.resolve(), site.directory / "other")
    assert writing_client(acme).delete("/api/images/acme/b.png").status_code == 200
    delete_company(acme, by=on_command_line())
    acme.embeddings_directory.unlink()
    other.rename(acme.embeddings_directory)
    by_adoption(site)
    Company.objects.update(active=True)
    assert search_names(Company.objects.get()) == {"a.png", "b.png"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: "[" * 100_000,
        lambda text: text.replace('"sequence": 1', f'"sequence": {10**30}'),
        lambda text: text.replace('"image_id": "', f'"image_id": "{"x" * 99}'),
        lambda text: text.replace('"vector": "', '"vector": "AAAA'),
        lambda text: text.replace('"perceptual_hash": "', '"perceptual_hash": "00'),
        lambda text: json.dumps({**json.loads(text), "changes": 2 * json.loads(text)["changes"]}),
    ],
    ids=["cut", "deep", "number", "id", "vector", "hash", "twice"],
)
def test_changes_that_cannot_be_read_leave_the_index_as_it_is(
    site: Site, acme: Company, caplog: pytest.LogCaptureFixture, damage: Callable[[str], str]
) -> None:
    delete_company(acme, by=on_command_line())
    kept = site.directory / "embeddings/.generations/acme/.live_changes.json"
    kept.write_text(damage(kept.read_text()))
    adopt_companies()
    assert "The live changes kept beside the index of acme cannot be read" in caplog.text
    Company.objects.update(active=True)
    assert search_names(Company.objects.get()) == {"a.png", "b.png"}


# An older copy of the indexes, with the database of today -----------------------------------------------------------


@contextmanager
def older_indexes(site: Site, made_meanwhile: Callable[[], None]) -> Iterator[None]:
    """Copy the indexes, let something be made, and put the copy in their place."""
    copy = shutil.copytree(site.directory / "embeddings", site.directory / "copy", symlinks=True)
    made_meanwhile()
    shutil.rmtree(site.directory / "embeddings")
    copy.rename(site.directory / "embeddings")
    restart()
    yield


def test_no_index_serves_that_lacks_changes_which_are_gone_from_the_database(site: Site, acme: Company) -> None:
    def fold_into_all() -> None:
        for colour in (RED, GREEN, BLUE):
            paint(acme.image_directory / "a.png", colour)
            build(acme)

    with older_indexes(site, fold_into_all):
        company = Company.objects.get()
        assert not company.live_changes.exists()
        answer = Client(raise_request_exception=False).post("/api/search/acme", {"image": picture(RED)})
        assert answer.status_code == 503
        assert "is gone from the disk, and none is left that could take its place" in answer.json()["error"]
        assert Client().get("/api/companies").json()["total"] == 1
        look_after_companies()
        assert Company.objects.get().generation == company.generation
        build(company)
        assert search_names(company) == {"a.png", "b.png", "put.png"}


def test_an_older_index_that_lacks_no_such_change_serves_and_the_log_says_so(
    site: Site, acme: Company, caplog: pytest.LogCaptureFixture
) -> None:
    with older_indexes(site, lambda: build(acme)):
        company, here = Company.objects.get(), acme.embeddings_directory.resolve().name
        assert search_names(company) == {"a.png", "b.png", "put.png"}  # the last from the database
        assert f"The index {company.generation} of acme is gone from the disk; {here} takes its place" in caplog.text
        look_after_companies()
        assert f"The row of acme names {here} from now on, instead of {company.generation}" in caplog.text
        assert Company.objects.get().generation == here
        assert search_names(company) == {"a.png", "b.png", "put.png"}


def test_a_damaged_index_takes_nobodys_place(site: Site, acme: Company) -> None:
    def build_twice() -> None:
        for colour in (RED, GREEN):
            paint(acme.image_directory / "a.png", colour)
            build(acme)

    build_twice()
    with older_indexes(site, build_twice):
        newest, older, *_ = publication.generations(Company.objects.get())
        (site.directory / "embeddings/.generations/acme" / newest.name / "id_keys.npy").unlink()
        company = Company.objects.get()
        assert search_names(company) == {"a.png", "b.png", "put.png"}
        look_after_companies()
        assert Company.objects.get().generation == older.name
