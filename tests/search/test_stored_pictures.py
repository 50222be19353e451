"""A company whose pictures lie in an object store: what the API, builds, the admin and the commands do with them."""

import io
import socket
import time
import zipfile
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client

from search import duplicates
from search.builds import run_build
from search.companies import duplicates as searches
from search.companies.removal import delete_company
from search.engine.errors import StoreRefused, StoreUnavailable, StoreUnsuitable
from search.engine.objects import ObjectStore
from search.engine.pictures.folders import StoredFolder
from search.folders import folder_of
from search.pictures import Put, delete_image, put_image
from tenants.audit import on_command_line
from tenants.models import AuditEvent, Company, DuplicateSearch, IndexBuild, JobStopped
from tests.conftest import Colour, picture
from tests.support.admin import text, upload, url
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.object_store import StoreServer

pytestmark = pytest.mark.django_db

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def bucket(store_server: StoreServer, settings: Any, tmp_path: Path) -> str:
    bucket = store_server.make_bucket()
    settings.IMAGE_STORES, settings.STORE_ENDPOINT = [bucket], store_server.endpoint
    settings.CACHE_DIR = tmp_path / "cache"
    return bucket


@pytest.fixture
def acme(bucket: str, embedder: FakeEmbedder) -> Company:
    company = Company.objects.create(name="acme", image_folder=f"{bucket}/shops/acme")
    for path, colour in {"red.png": RED, "Cold/blue.png": BLUE}.items():
        leave(company, path, colour)
    build()
    return company


def store_of(company: Company) -> ObjectStore:
    folder = folder_of(company)
    assert isinstance(folder, StoredFolder)
    return folder._store


def leave(company: Company, path: str, colour: Colour) -> None:
    """Leave a picture in the store as another program does."""
    store_of(company).write(path, picture(colour, Path(path).name).getvalue())


def stored(company: Company) -> dict[str, bytes]:
    """Return all objects below the company's folder."""
    store = store_of(company)
    return {each.key: store.read(each.key, limit=1 << 20) for each in store.listing()}


def build(*options: str, company: str = "acme") -> str:
    out = StringIO()
    call_command("build_embeddings", "--company", company, *options, stdout=out)
    return out.getvalue()


def found(colour: Colour, company: str = "acme") -> list[str]:
    response = Client().post(f"/api/search/{company}", {"image": picture(colour)})
    return [entry["fullPath"] for entry in response.json()["results"]]


def put(client: Client, path: str, colour: Colour, key: str) -> Any:
    content = picture(colour).getvalue()
    return client.generic(
        "PUT", f"/api/images/acme/{path}", content, content_type="image/png", headers={"X-API-Key": key}
    )


@pytest.fixture
def key(acme: Company) -> str:
    return acme.issue_key("shop", can_write=True)[1]


def test_a_build_indexes_what_another_program_has_left_and_changed(acme: Company) -> None:
    assert found(RED) == ["red.png", "Cold/blue.png"]
    leave(acme, "red.png", GREEN)  # of the same size, within the same second
    leave(acme, "new/red.png", RED)
    store_of(acme).delete(["Cold/blue.png"])
    assert "3 pictures" not in build()
    assert found(RED)[0] == "new/red.png"
    assert sorted(found(GREEN)) == ["new/red.png", "red.png"]
    assert "no changes" in build()


def test_pictures_put_and_deleted_count_at_once_and_lie_in_the_store(acme: Company, key: str) -> None:
    client = Client()
    assert put(client, "new/Grün 100%.png", GREEN, key).json()["change"] == "created"
    assert put(client, "new/Grün 100%.png", GREEN, key).json()["change"] == "unchanged"
    assert put(client, "red.png", BLUE, key).json()["change"] == "replaced"
    assert found(GREEN)[0] == "new/Grün 100%.png"
    assert client.delete("/api/images/acme/Cold/blue.png", headers={"X-API-Key": key}).status_code == 200
    assert sorted(found(GREEN)) == ["new/Grün 100%.png", "red.png"]
    assert stored(acme) == {"new/Grün 100%.png": picture(GREEN).getvalue(), "red.png": picture(BLUE).getvalue()}
    events = AuditEvent.objects.filter(
        action__in=[AuditEvent.Action.PICTURE_PUT, AuditEvent.Action.PICTURE_DELETED]
    ).order_by("pk")
    assert [event.detail for event in events] == ["new/Grün 100%.png", "red.png", "Cold/blue.png"]
    build()
    assert sorted(found(GREEN)) == ["new/Grün 100%.png", "red.png"]


def test_the_limits_count_what_lies_in_the_store(acme: Company, key: str) -> None:
    Company.objects.update(max_pictures=3)
    store_of(acme).write("notes.txt", b"no picture")
    assert put(Client(), "one.png", GREEN, key).status_code == 201
    refusal = put(Client(), "two.png", GREEN, key)
    assert (refusal.status_code, refusal.json()["code"]) == (413, "picture_limit_reached")


def test_no_path_leads_out_of_the_folder(acme: Company, key: str) -> None:
    for path in ("..%2Fglobex/a.png", ".hidden.png", "a%0Ab.png", "A//../../b.png"):
        assert put(Client(), path, GREEN, key).status_code in (400, 404)
    assert sorted(stored(acme)) == ["Cold/blue.png", "red.png"]


def test_originals_and_thumbnails_have_a_version_that_changes_with_the_object(acme: Company, key: str) -> None:
    client, headers = Client(), {"X-API-Key": key}
    image_id = client.get("/api/images/acme/red.png", headers=headers).json()["image"]["id"]
    for address in (f"/api/pictures/acme/{image_id}", f"/api/pictures/acme/{image_id}/thumbnail"):
        first = client.get(address, headers=headers)
        assert first.status_code == 200
        if first.streaming:
            assert b"".join(first.streaming_content) == picture(RED).getvalue()
            assert first["Content-Length"] == str(len(picture(RED).getvalue()))
        assert client.get(address, headers={**headers, "If-None-Match": first["ETag"]}).status_code == 304
        leave(acme, "red.png", BLUE)
        assert client.get(address, headers={**headers, "If-None-Match": first["ETag"]}).status_code == 200
        leave(acme, "red.png", RED)
    store_of(acme).delete(["red.png"])
    for address in (f"/api/pictures/acme/{image_id}", f"/api/pictures/acme/{image_id}/thumbnail"):
        answer = client.get(address, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "picture_gone")


def test_an_upload_of_a_zip_is_stored_and_built(acme: Company, admin_client: Client) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in {"Shoes/a.png": picture(GREEN).getvalue(), "b.png": b"no picture"}.items():
            archive.writestr(path, content)
    response = upload(admin_client, acme, SimpleUploadedFile("shop.zip", file.getvalue()), location="New")
    assert response.context["intake"].stored == ["New/Shoes/a.png"]
    assert [refused.path for refused in response.context["intake"].refused] == ["b.png"]
    again = upload(admin_client, acme, picture(RED, "red.png"))
    assert "already exists" in again.context["intake"].refused[0].reason
    queued = acme.builds.active().get()
    queued.start()
    run_build(queued)
    assert found(GREEN)[0] == "New/Shoes/a.png"
    thumbnail = admin_client.get(url("thumbnail", acme), {"path": "New/Shoes/a.png"})
    assert thumbnail.status_code == 200


def test_the_page_of_a_company_says_where_its_pictures_lie(acme: Company, admin_client: Client) -> None:
    page = text(admin_client.get(url("change", acme)).content.decode())
    assert f"Image folder: {acme.image_folder}" in page
    assert f"In an object store: a folder below {acme.image_folder.removesuffix('/shops/acme')}." in page


# While the store is away


@pytest.fixture
def away(acme: Company, key: str, settings: Any) -> None:
    settings.STORE_ENDPOINT = AWAY


def test_searches_go_on_and_what_needs_the_store_says_so(key: str, away: None, admin_client: Client) -> None:
    acme = Company.objects.get()
    headers = {"X-API-Key": key}
    assert found(RED) == ["red.png", "Cold/blue.png"]
    image_id = Client().get("/api/images/acme/red.png", headers=headers).json()["image"]["id"]
    answers = [
        put(Client(), "new.png", GREEN, key),
        Client().delete("/api/images/acme/red.png", headers=headers),
        Client().get(f"/api/pictures/acme/{image_id}", headers=headers),
        Client().get(f"/api/pictures/acme/{image_id}/thumbnail", headers=headers),
    ]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "store_unavailable")}
    assert not acme.live_changes.exists()
    response = upload(admin_client, acme, picture(GREEN, "a.png"), picture(GREEN, "b.png"))
    assert [refused.path for refused in response.context["intake"].refused] == ["a.png", "b.png"]
    assert admin_client.get(url("thumbnail", acme), {"path": "red.png"}).status_code == 503
    assert admin_client.get(url("change", acme)).status_code == 200
    assert "cannot be reached" in text(admin_client.get(url("picture", acme), {"id": image_id}).content.decode())


def test_a_build_fails_and_the_index_stays_as_it_was(away: None, settings: Any, store_server: StoreServer) -> None:
    with pytest.raises(CommandError, match="cannot be used"):
        build()
    assert found(RED) == ["red.png", "Cold/blue.png"]
    settings.STORE_ENDPOINT = store_server.endpoint
    assert "no changes" in build()


def test_a_worker_goes_on_with_a_build_when_the_store_is_back_but_not_where_it_refuses(
    acme: Company, settings: Any, store_server: StoreServer
) -> None:
    leave(acme, "new.png", GREEN)
    queued = acme.queue_build()
    queued.start()
    settings.STORE_ENDPOINT = AWAY
    with pytest.raises(JobStopped):
        run_build(queued)
    queued.refresh_from_db()
    assert queued.is_active
    settings.STORE_ENDPOINT = store_server.endpoint
    assert "Indexed 3 of 3 pictures" in build()
    acme.image_folder = "s3://no-such-bucket/acme"
    settings.IMAGE_STORES = ["s3://no-such-bucket"]
    acme.save()
    refused = acme.queue_build()
    refused.start()
    with pytest.raises(StoreUnsuitable):
        run_build(refused)
    refused.refresh_from_db()
    assert "404 Not Found" in refused.error


def test_a_store_that_goes_away_in_the_middle_of_a_build_loses_no_picture(
    acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        leave(acme, f"new/{number}.png", (40 * number, 0, 0))
    opened = StoredFolder.open
    served = iter(range(3))

    def open_some(folder: StoredFolder, path: str, *, at_once: bool = True) -> Any:
        if next(served, None) is None:
            raise StoreUnavailable("The store cannot be used")
        return opened(folder, path, at_once=at_once)

    with monkeypatch.context() as patch:
        patch.setattr(StoredFolder, "open", open_some)
        with pytest.raises(CommandError, match="cannot be used"):
            build("--full")
    assert IndexBuild.objects.latest("pk").status == IndexBuild.Status.FAILED
    assert sorted(found(RED)) == ["Cold/blue.png", "red.png"]
    assert "Indexed 8 of 8 pictures" in build()


def refuse(monkeypatch: pytest.MonkeyPatch, *methods: str) -> None:
    """Have the store answer, and refuse."""

    def refuse_it(store: ObjectStore, *arguments: Any, **options: Any) -> Any:
        raise StoreRefused(f"The store {store.url} cannot be used ({store.endpoint}: 403 Forbidden)")

    for method in methods:
        monkeypatch.setattr(ObjectStore, method, refuse_it)


def test_an_upload_says_of_each_picture_that_the_store_refuses_it(
    acme: Company, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "stat")
    response = upload(admin_client, acme, picture(GREEN, "a.png"), picture(GREEN, "b.png"))
    reasons = {refused.path: refused.reason for refused in response.context["intake"].refused}
    assert reasons == dict.fromkeys(("a.png", "b.png"), "The object store refuses it; see the server log")


def test_an_upload_while_the_store_is_away_names_no_address(acme: Company, away: None, admin_client: Client) -> None:
    response = upload(admin_client, acme, picture(GREEN, "a.png"))
    assert "object store is unavailable" in text(response.content.decode())
    assert AWAY not in response.content.decode()


def test_chosen_pictures_are_not_tried_one_after_the_other_while_the_store_is_away(
    acme: Company, key: str, away: None, admin_client: Client
) -> None:
    asked = Client().get("/api/images/acme", headers={"X-API-Key": key}).json()["images"]
    chosen = {"id": [each["id"] for each in asked], "confirmed": "1"}
    page = admin_client.post(url("delete_pictures", acme), chosen, follow=True).content.decode()
    assert text(page).count("was not deleted: The object store is unavailable") == 1
    assert AWAY not in page


def test_an_upload_is_built_though_the_store_cannot_be_counted(
    acme: Company, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    Company.objects.update(max_pictures=1)
    refuse(monkeypatch, "listing")
    response = upload(admin_client, acme, picture(GREEN, "a.png"))
    assert response.context["intake"].stored == ["a.png"]
    assert acme.builds.active().exists()


@pytest.mark.parametrize("refused", [True, False])
def test_an_index_is_not_damaged_where_its_pictures_cannot_be_looked_for(
    acme: Company, monkeypatch: pytest.MonkeyPatch, settings: Any, refused: bool
) -> None:
    if refused:
        refuse(monkeypatch, "stat")
    else:
        settings.STORE_ENDPOINT = AWAY
    out = StringIO()
    call_command("check_index", "acme", stdout=out)
    assert "acme: ok, 2 pictures" in out.getvalue()
    assert "acme: WARNING. Its pictures could not be looked for" in out.getvalue()


# Whole companies


def test_duplicates_are_looked_at_and_deleted(acme: Company) -> None:
    for path in ("copy.png", "red.png"):
        leave(acme, path, RED)
    build()
    DuplicateSearch.objects.ask(acme)
    search = DuplicateSearch.objects.get()
    search.start()
    searches.carry_out(search)
    assert duplicates.has_looked(acme)
    assert delete_image(acme, "copy.png", by=on_command_line()) is not None
    assert sorted(stored(acme)) == ["Cold/blue.png", "red.png"]


def test_check_index_tells_of_pictures_that_are_gone(acme: Company) -> None:
    store_of(acme).delete(["red.png"])
    out = StringIO()
    call_command("check_index", "acme", stdout=out)
    assert "1 of 2 pictures sampled are not in the folder" in out.getvalue()


def test_an_export_comes_back_into_another_folder_of_the_store(
    acme: Company, bucket: str, tmp_path: Path, embedder: FakeEmbedder
) -> None:
    call_command("export_company", "acme", "--with-images", "--to", str(tmp_path / "acme.tar"), stdout=StringIO())
    before = stored(acme)
    globex = Company.objects.create(name="globex", image_folder=f"{bucket}/shops/globex")
    leave(globex, "red.png", RED)  # an earlier import was killed half-way
    call_command("import_company", "globex", str(tmp_path / "acme.tar"), stdout=StringIO())
    assert stored(globex) == before
    assert found(RED, "globex") == ["red.png", "Cold/blue.png"]
    embedded = embedder.embedded
    build(company="globex")
    assert embedder.embedded == embedded


def test_an_export_comes_back_onto_a_disk_and_not_among_other_pictures(
    acme: Company, bucket: str, tmp_path: Path
) -> None:
    call_command("export_company", "acme", "--with-images", "--to", str(tmp_path / "acme.tar"), stdout=StringIO())
    call_command("import_company", "onto-disk", str(tmp_path / "acme.tar"), stdout=StringIO())
    on_disk = Company.objects.get(name="onto-disk")
    assert (on_disk.image_directory / "Cold/blue.png").read_bytes() == picture(BLUE).getvalue()
    globex = Company.objects.create(name="globex", image_folder=f"{bucket}/shops/globex")
    for path in ("red.png", "zebra.png"):
        leave(globex, path, GREEN)
        with pytest.raises(CommandError, match="contains other pictures"):
            call_command("import_company", "globex", str(tmp_path / "acme.tar"), stdout=StringIO())
        store_of(globex).delete([path])


def test_the_pictures_of_a_deleted_company_stay(acme: Company, django_capture_on_commit_callbacks: Any) -> None:
    fates = []
    with django_capture_on_commit_callbacks(execute=True):
        delete_company(acme, by=on_command_line(), remove_index=True, remove_pictures=True, tell=fates.append)
    told = {fate.what: fate for fate in fates}
    assert told["index"].removed
    assert not told["pictures"].removed
    assert "is not a folder of its own below" in told["pictures"].problem
    assert sorted(stored(acme)) == ["Cold/blue.png", "red.png"]
    other = Company.objects.create(name="globex")
    delete_company(other, by=on_command_line())


def test_the_folder_of_one_company_shows_nothing_of_another(acme: Company, bucket: str) -> None:
    globex = Company.objects.create(name="globex", image_folder=f"{bucket}/shops/acme2")
    leave(globex, "green.png", GREEN)
    build(company="globex")
    assert found(RED, "globex") == ["green.png"]
    record, change = put_image(globex, "red.png", picture(RED).getvalue(), by=on_command_line())
    assert (record.path, change) == ("red.png", Put.CREATED)
    assert sorted(stored(acme)) == ["Cold/blue.png", "red.png"]


@pytest.mark.slow
def test_requests_wait_seconds_for_a_store_that_hangs(acme: Company, client: Client, key: str, settings: Any) -> None:
    headers = {"X-API-Key": key}
    image = client.get("/api/images/acme/red.png", headers=headers).json()["image"]["id"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.STORE_ENDPOINT = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        for _ in range(5):
            for address in (f"/api/pictures/acme/{image}", f"/api/pictures/acme/{image}/thumbnail"):
                assert client.get(address, headers=headers).status_code == 503
            assert put(client, "new.png", GREEN, key).status_code == 503
        assert time.monotonic() - began < 20
