"""Builds and folds by workers, each on a machine of its own, with indexes that lie in a store."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from search import overlay, stores
from search.engine.storage import remote
from search.pictures import put_image
from tenants.audit import on_command_line
from tenants.models import Company, IndexBuild
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.object_store import StoreServer
from tests.support.processes import KILLED, Site
from tests.support.waiting import eventually

pytestmark = [pytest.mark.parametrize("database_url", ["sqlite"], indirect=True), pytest.mark.slow]


@pytest.fixture
def site_with_store(
    site: Site, embedder: FakeEmbedder, settings: Any, store_server: StoreServer, tmp_path: Path
) -> Site:
    """This process is a web machine."""
    site.store, site.endpoint = store_server.make_bucket(), store_server.endpoint
    settings.STORE, settings.STORE_ENDPOINT = site.store, site.endpoint
    settings.INDEX_DIR = settings.REPLICA_DIR = tmp_path / "replica"
    return site


def paths() -> set[str]:
    return {record.path for record in overlay.live_index(Company.objects.get()).page(0, 1000)[0]}


def succeeded(build: IndexBuild) -> bool:
    build.refresh_from_db()
    return build.status == IndexBuild.Status.SUCCEEDED


def put(name: str, content: BytesIO) -> None:
    put_image(Company.objects.get(), name, content.read(), by=on_command_line())


def test_what_one_machine_builds_and_another_folds_is_found_on_a_third(site_with_store: Site) -> None:
    company = Company.objects.create(name="acme")
    paint(company.image_directory / "red.png", RED)
    built = site_with_store.manage("build_embeddings", "--company=acme")
    assert built.wait() == 0, built.output
    assert paths() == {"red.png"}

    put("blue.png", picture(BLUE))
    fold = Company.objects.get().queue_build(fold=True)
    worker = site_with_store.worker()
    eventually(lambda: succeeded(fold), "the fold")
    worker.kill()
    company.refresh_from_db()
    assert company.live_sequence == 1
    store = stores.of(company)
    assert store is not None
    assert remote.info(store, str(company.generation)).total_images == 2
    assert paths() == {"red.png", "blue.png"}


def test_a_publisher_that_is_killed_before_the_row_moves_is_followed_by_another(site_with_store: Site) -> None:
    company = Company.objects.create(name="acme")
    paint(company.image_directory / "red.png", RED)
    assert site_with_store.manage("build_embeddings", "--company=acme").wait() == 0
    paint(company.image_directory / "green.png", GREEN)
    killed = site_with_store.manage(
        "build_embeddings", "--company=acme", die_after="search.engine.storage.remote:upload"
    )
    assert killed.wait() == KILLED, killed.output
    assert paths() == {"red.png"}

    worker = site_with_store.worker()
    eventually(lambda: paths() == {"red.png", "green.png"}, "the next worker takes the build up")
    worker.kill()
