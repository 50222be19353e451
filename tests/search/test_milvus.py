"""A company that Milvus searches: moved there and back, published, away, removed."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from pymilvus import MilvusClient

from search import collections, publication, runtime
from search.builds import run_build
from search.companies.engines import move
from search.companies.removal import delete_company
from search.companies.rollback import roll_back
from search.engine.errors import PublishRefused
from search.engine.milvus import Milvus
from search.pictures import delete_image, put_image
from search.tasks import look_after_companies
from tenants.audit import on_command_line
from tenants.models import AuditEvent, Company
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.milvus_server import MilvusServer
from tests.support.object_store import StoreServer
from tests.support.waiting import eventually

MakeCompany = Callable[..., Company]
Engine = Company.Engine


@pytest.fixture
def milvus(milvus_server: MilvusServer, settings: Any) -> Iterator[Milvus]:
    settings.MILVUS_URL = milvus_server.url
    server = milvus_server.connect()
    yield server
    for name in server.names():
        server.drop(name)


@pytest.fixture
def acme(make_company: MakeCompany, milvus: Milvus) -> Company:
    company = make_company("acme", {"red.png": RED, "100%/green.png": GREEN, "blue.png": BLUE})
    call_command("move_company", "acme", engine="milvus")
    company.refresh_from_db()
    return company


def found(company: str = "acme", colour: Any = RED, **fields: Any) -> list[tuple[str, float]]:
    response = Client().post(f"/api/search/{company}", {"image": picture(colour), **fields})
    assert response.status_code == 200, response.content
    return [(result["fullPath"], result["score"]) for result in response.json()["results"]]


def put(path: str, colour: Any) -> None:
    put_image(Company.objects.get(name="acme"), path, picture(colour).getvalue(), by=on_command_line())


def begin_anew() -> None:
    """Have the process forget what it has loaded and whom it is connected to."""
    runtime.reset()
    runtime.use(FakeEmbedder())


def generations_in(milvus: Milvus) -> set[str]:
    return {name.split("_", 2)[2].replace("_", "-") for name in milvus.names()}


def test_a_company_is_searched_alike_by_both_engines(acme: Company) -> None:
    """Also with live changes, put before a move and after it."""
    put("new/red.png", RED)
    delete_image(Company.objects.get(), "blue.png", by=on_command_line())
    there = found(), found(location="100%"), found(colour=BLUE)
    assert [path for path, _ in there[0]] == ["red.png", "new/red.png", "100%/green.png"]
    call_command("move_company", "acme", engine="local")
    assert (found(), found(location="100%"), found(colour=BLUE)) == there
    assert AuditEvent.objects.filter(action=AuditEvent.Action.ENGINE_CHOSEN).count() == 2


@pytest.mark.slow
def test_searches_read_no_file_but_what_the_index_says_of_itself(acme: Company) -> None:
    there = found()
    for file in publication.index_directory(acme).iterdir():
        if file.name not in ("index_info.json", "faiss_index.bin", "metadata.json", "SHA256SUMS"):
            file.unlink()
        elif file.name == "metadata.json":
            file.write_bytes(b"")
    begin_anew()
    assert found() == there


@pytest.mark.slow
def test_a_company_whose_files_lie_in_a_store_is_searched_without_fetching_them(
    db: None, embedder: FakeEmbedder, milvus: Milvus, store_server: StoreServer, settings: Any, tmp_path: Path
) -> None:
    settings.STORE, settings.STORE_ENDPOINT = store_server.make_bucket(), store_server.endpoint
    settings.INDEX_DIR = tmp_path / "publisher"
    settings.INDEX_DIR.mkdir()
    company = Company.objects.create(name="acme")
    paint(company.image_directory / "red.png", RED)
    call_command("build_embeddings", company="acme")
    call_command("move_company", "acme", engine="milvus")
    settings.INDEX_DIR = tmp_path / "web"
    settings.INDEX_DIR.mkdir()
    begin_anew()
    assert [path for path, _ in found()] == ["red.png"]
    assert [file.name for file in settings.INDEX_DIR.rglob("faiss_index.bin")] == []
    call_command("move_company", "acme", engine="local")
    assert [path for path, _ in found()] == ["red.png"]


@pytest.mark.slow
def test_searches_go_on_once_milvus_is_back(acme: Company, milvus_server: MilvusServer) -> None:
    before = found()
    milvus_server.kill()
    assert Client().post("/api/search/acme", {"image": picture(RED)}).status_code == 503
    milvus_server.pid = milvus_server.start()
    eventually(lambda: Client().post("/api/search/acme", {"image": picture(RED)}).status_code == 200, "it is back")
    assert found() == before


@pytest.mark.slow
def test_check_index_names_a_collection_that_is_gone(acme: Company, milvus: Milvus) -> None:
    call_command("check_index", "acme")
    milvus.drop(milvus.names()[0])
    begin_anew()
    with pytest.raises(CommandError):
        call_command("check_index", "acme")


@pytest.mark.slow
def test_check_index_finds_out_that_pictures_were_deleted_from_a_collection(acme: Company, milvus: Milvus) -> None:
    there = found()
    MilvusClient(milvus.url).delete(milvus.names()[0], ids=[1])
    begin_anew()
    with pytest.raises(CommandError):
        call_command("check_index", "acme")
    call_command("move_company", "acme", engine="milvus")
    begin_anew()
    call_command("check_index", "acme")
    assert found() == there


@pytest.mark.slow
def test_a_collection_that_is_gone_is_made_again_by_moving_there_again(acme: Company, milvus: Milvus) -> None:
    there = found()
    milvus.drop(milvus.names()[0])
    begin_anew()
    assert Client().post("/api/search/acme", {"image": picture(RED)}).status_code == 503
    call_command("move_company", "acme", engine="milvus")
    assert found() == there


@pytest.mark.slow
def test_two_who_make_the_same_collection_do_not_disturb_each_other(make_company: MakeCompany, milvus: Milvus) -> None:
    company = make_company("acme", {"red.png": RED})
    files = publication.index_files(company)

    def make() -> None:
        collections.make(company, files.name, files)

    with ThreadPoolExecutor(1) as other:
        begun: list[Future[None]] = []

        def begin_another() -> None:
            if not begun:
                begun.append(other.submit(make))

        collections.make(company, files.name, files, beat=begin_another)
        begun[0].result()
    call_command("move_company", "acme", engine="milvus")
    assert [path for path, _ in found()] == ["red.png"]


@pytest.mark.slow
def test_publications_make_collections_and_drop_those_of_generations_that_are_gone(
    acme: Company, milvus: Milvus, settings: Any
) -> None:
    settings.KEEP_GENERATIONS = 1
    for place in range(3):
        paint(acme.image_directory / f"{place}.png", (place, 0, 255))
        call_command("build_embeddings", company="acme")
    there = {each.name for each in publication.generations(Company.objects.get())}
    assert generations_in(milvus) == there
    assert len(there) == 2
    assert len(found(colour=BLUE, topK=50)) == 6
    roll_back(Company.objects.get(), by=on_command_line())
    assert len(found(colour=BLUE, topK=50)) == 5


@pytest.mark.slow
def test_a_fold_makes_a_collection_of_its_own(acme: Company, milvus: Milvus) -> None:
    put("new.png", RED)
    before = sorted(found())
    build = Company.objects.get().queue_build(fold=True)
    assert build.start()
    run_build(build)
    assert Company.objects.get().generation in generations_in(milvus)
    assert sorted(found()) == before


@pytest.mark.slow
def test_milvus_away_is_a_503_of_its_companies_alone(
    acme: Company, milvus_server: MilvusServer, make_company: MakeCompany
) -> None:
    make_company("globex", {"red.png": RED})
    assert found()
    begin_anew()
    milvus_server.fall_silent()
    try:
        for _ in range(3):
            began = time.monotonic()
            response = Client().post("/api/search/acme", {"image": picture(RED)})
            assert (response.status_code, response.json()["code"]) == (503, "engine_unavailable")
            assert int(response["Retry-After"]) > 0
            assert time.monotonic() - began < 15
            assert found("globex")
        assert Company.objects.get(name="acme").generation is not None
    finally:
        milvus_server.speak()


@pytest.mark.slow
def test_a_publication_without_milvus_leaves_the_old_index(acme: Company, settings: Any) -> None:
    before, generation = found(), Company.objects.get().generation
    url, settings.MILVUS_URL = settings.MILVUS_URL, "http://127.0.0.1:9"
    begin_anew()
    paint(acme.image_directory / "more.png", BLUE)
    with pytest.raises(CommandError, match="Milvus"):
        call_command("build_embeddings", company="acme")
    settings.MILVUS_URL = url
    begin_anew()
    assert Company.objects.get().generation == generation
    assert found() == before


@pytest.mark.slow
def test_a_move_that_was_killed_is_gone_on_with(make_company: MakeCompany, milvus: Milvus) -> None:
    company = make_company("acme", {"red.png": RED})

    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):
        move(company, Engine.MILVUS, by=None, beat=kill)
    assert Company.objects.get().engine == Engine.MOVING
    assert found()
    paint(company.image_directory / "more.png", RED)
    call_command("build_embeddings", company="acme")  # which makes a collection, as nobody searches there yet
    call_command("move_company", "acme", engine="milvus")
    assert Company.objects.get().engine == Engine.MILVUS
    assert len(found()) == 2
    look_after_companies()
    assert generations_in(milvus) == {each.name for each in publication.generations(Company.objects.get())}


@pytest.mark.slow
def test_a_publication_that_a_move_overtakes_is_refused(make_company: MakeCompany, milvus: Milvus) -> None:
    """Its generation has no collection, and searches would find none."""
    make_company("acme", {"red.png": RED})
    company = Company.objects.get()
    generation = str(company.generation)

    @contextmanager
    def overtaken() -> Iterator[None]:
        move(Company.objects.get(), Engine.MILVUS, by=None)
        yield

    with pytest.raises(PublishRefused):
        publication.publish_again(company, generation, made_from=generation, confirm=overtaken)
    assert found()


@pytest.mark.slow
def test_what_is_left_of_a_deleted_company_is_dropped(
    acme: Company, milvus: Milvus, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        delete_company(acme, by=on_command_line())
    assert milvus.names() == []
