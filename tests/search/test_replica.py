"""What a machine answers from its copies of indexes that lie in a store."""

import os
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from prometheus_client import REGISTRY

from search import overlay, prefetch, publication, replica, runtime
from search.engine import storage
from search.engine.errors import IndexCorrupt, IndexNotBuilt, IndexOnItsWay, StoreUnavailable
from search.engine.objects import ObjectStore
from search.engine.storage import copies, remote
from search.pictures import delete_image, put_image
from tenants.audit import on_command_line
from tenants.models import ApiKey, Company
from tests.conftest import Colour, paint, picture
from tests.support.damage import flip_a_byte
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.object_store import StoreServer
from tests.support.waiting import eventually

MakeCompany = Callable[..., Company]
PATIENCE = 30
NOWHERE = "http://127.0.0.1:9"


class Shop:
    """Companies whose generations lie in a store, and the machine of the test, which has no copy yet."""

    def __init__(self, make_company: MakeCompany, settings: Any, url: str, endpoint: str, machine: Path) -> None:
        self._make_company, self._settings = make_company, settings
        self._url, self.endpoint, self.machine = url, endpoint, machine
        self.use_store()

    def add(self, name: str, pictures: dict[str, Colour]) -> Company:
        with self._publisher():
            company = self._make_company(name, pictures)
            return self._upload(company)

    def publish(self, company: Company, pictures: dict[str, Colour]) -> Company:
        """Build on another machine, and let the row name what came of it."""
        with self._publisher():
            for path, colour in pictures.items():
                paint(company.image_directory / path, colour)
            call_command("build_embeddings", company=company.name)
            return self._upload(company)

    def delete(self, company: Company) -> None:
        """Delete a company with all that it has, on another machine."""
        Company.objects.filter(pk=company.pk).delete()
        shutil.rmtree(company.image_directory)
        with self._publisher():
            storage.erase(company.embeddings_directory)
        remote.remove_all(self.store(company), last="company.json")

    def store(self, company: Company) -> ObjectStore:
        return ObjectStore(f"{self._url}/{company.name}", endpoint=self.endpoint)

    def damage(self, company: Company, file: str) -> None:
        key = f"{row(company).generation}/{file}"
        content = self.store(company).read(key, limit=1 << 20)
        self.store(company).write(key, content[:-1] + bytes([content[-1] ^ 1]))

    def use_store(self) -> None:
        self._settings.STORE, self._settings.STORE_ENDPOINT = self._url, self.endpoint
        self._settings.INDEX_DIR = self._settings.REPLICA_DIR = self.machine

    def go_away(self) -> None:
        self._settings.STORE_ENDPOINT = NOWHERE

    @contextmanager
    def _publisher(self) -> Iterator[None]:
        self._settings.STORE, self._settings.INDEX_DIR = "", self._settings.EMBEDDINGS_DIR
        try:
            yield
        finally:
            self.use_store()

    def _upload(self, company: Company) -> Company:
        generation = str(row(company).generation)
        directory = storage.generation_directory(company.embeddings_directory, generation)
        remote.upload(self.store(company), directory, generation)
        return row(company)


@pytest.fixture
def shop(make_company: MakeCompany, settings: Any, store_server: StoreServer, tmp_path: Path) -> Shop:
    return Shop(make_company, settings, f"{store_server.make_bucket()}/i", store_server.endpoint, tmp_path / "machine")


@pytest.fixture
def acme(shop: Shop) -> Company:
    return shop.add("acme", {"red.png": RED, "blue.png": BLUE})


def row(company: Company) -> Company:
    """Return the company as a request has just read it."""
    return Company.objects.get(pk=company.pk)


def found(company: Company) -> set[str]:
    return {record.path for record in overlay.live_index(row(company)).page(0, 1000)[0]}


def put(company: Company, path: str, colour: Colour) -> None:
    put_image(row(company), path, picture(colour).getvalue(), by=on_command_line())


def search(client: Client, name: str = "acme") -> Any:
    return client.post(f"/api/search/{name}", {"image": picture(RED)})


def copy_of(company: Company) -> Path:
    return storage.generation_directory(company.embeddings_directory, str(row(company).generation))


def names_here(shop: Shop) -> list[str]:
    return [copy.directory.name for copy in copies.copies(shop.machine)]


@pytest.fixture
def slow_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A store from which no file arrives before the event is set."""
    arrives, real = threading.Event(), ObjectStore.download

    def wait_first(self: ObjectStore, key: str, file: Path, **options: Any) -> bytes:
        assert arrives.wait(PATIENCE)
        return real(self, key, file, **options)

    monkeypatch.setattr(ObjectStore, "download", wait_first)
    yield arrives
    arrives.set()


def test_the_first_search_fetches_the_index_and_the_next_ask_the_store_nothing(
    shop: Shop, acme: Company, client: Client
) -> None:
    assert search(client).json()["results"][0]["name"] == "red"
    assert copy_of(acme).is_dir()
    shop.go_away()
    assert search(client).status_code == 200


def test_a_company_without_an_index_has_none_with_a_store_either(shop: Shop, client: Client) -> None:
    Company.objects.create(name="globex")
    assert search(client, "globex").json()["code"] == "index_not_built"


def test_requests_that_come_together_share_one_fetch(
    shop: Shop, acme: Company, slow_store: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, real = [], remote.fetch
    monkeypatch.setattr(remote, "fetch", lambda *arguments: (fetched.append(1), real(*arguments)))
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(replica.at_hand, acme, str(acme.generation), wait_seconds=None) for _ in range(12)]
        slow_store.set()
        assert {each.result(PATIENCE) for each in asked} == {copy_of(acme)}
    assert len(fetched) == 1


def test_who_cannot_wait_is_told_to_come_again_and_the_fetch_goes_on(
    shop: Shop, acme: Company, slow_store: threading.Event, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "REQUEST_SECONDS", 0.01)
    answer = search(client)
    assert (answer.status_code, answer.json()["code"], answer["Retry-After"]) == (503, "index_on_its_way", "5")
    slow_store.set()
    eventually(copy_of(acme).is_dir, "the fetch is over")
    assert search(client).status_code == 200


def test_a_company_whose_copy_is_on_its_way_leaves_threads_to_the_others(
    shop: Shop, acme: Company, slow_store: threading.Event
) -> None:
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(replica.at_hand, acme, str(acme.generation), wait_seconds=PATIENCE) for _ in range(12)]
        refused = [
            each
            for each in asked
            if eventually(lambda: sum(e.done() for e in asked) == 10, "10 refused") and each.done()
        ]
        assert {type(each.exception()) for each in refused} == {IndexOnItsWay}
        slow_store.set()
        assert sum(each.exception(PATIENCE) is None for each in asked) == 2


@pytest.mark.slow
def test_the_earlier_index_answers_while_a_new_one_is_on_its_way(
    shop: Shop, acme: Company, slow_store: threading.Event
) -> None:
    slow_store.set()
    assert found(acme) == {"red.png", "blue.png"}
    slow_store.clear()
    shop.publish(acme, {"green.png": GREEN})
    assert found(acme) == {"red.png", "blue.png"}
    slow_store.set()
    eventually(lambda: found(acme) == {"red.png", "blue.png", "green.png"}, "the new one is used")


@pytest.mark.slow
def test_a_new_process_answers_from_the_earlier_copy_as_well(
    shop: Shop, acme: Company, slow_store: threading.Event, embedder: Any
) -> None:
    slow_store.set()
    found(acme)
    shop.publish(acme, {"green.png": GREEN})
    slow_store.clear()
    runtime.reset()
    runtime.use(embedder)
    assert found(acme) == {"red.png", "blue.png"}


def test_an_index_that_was_given_up_does_not_answer_for_a_new_one(
    shop: Shop, acme: Company, slow_store: threading.Event, embedder: Any
) -> None:
    slow_store.set()
    shop.publish(acme, {"green.png": GREEN})
    assert found(acme) == {"red.png", "blue.png", "green.png"}
    Company.objects.filter(pk=acme.pk).update(generation=acme.generation)  # somebody goes back
    prefetch.fetch(row(acme))
    assert found(acme) == {"red.png", "blue.png"}
    (acme.image_directory / "green.png").unlink()
    shop.publish(acme, {"yellow.png": (250, 240, 20)})
    slow_store.clear()
    runtime.reset()
    runtime.use(embedder)
    assert found(acme) == {"red.png", "blue.png"}


def test_a_copy_of_a_deleted_company_never_answers_for_a_new_one_of_its_name(
    shop: Shop, acme: Company, slow_store: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_store.set()
    found(acme)
    shop.delete(acme)
    new = shop.add("acme", {"green.png": GREEN})
    slow_store.clear()
    monkeypatch.setattr(replica, "REQUEST_SECONDS", 0.01)
    with pytest.raises(IndexOnItsWay):
        found(new)
    slow_store.set()
    eventually(copy_of(new).is_dir, "the new one is here")
    assert found(new) == {"green.png"}


def test_an_index_below_the_floor_never_answers(
    shop: Shop, acme: Company, slow_store: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_store.set()
    found(acme)
    slow_store.clear()
    monkeypatch.setattr(replica, "REQUEST_SECONDS", 0.01)
    Company.objects.filter(pk=acme.pk).update(live_sequence=3)  # changes that the next build is to hold
    shop.publish(acme, {"green.png": GREEN})
    Company.objects.filter(pk=acme.pk).update(live_floor=3)  # and that are gone from the database
    with pytest.raises(IndexOnItsWay):
        found(acme)
    slow_store.set()
    eventually(copy_of(acme).is_dir, "the fetch is over")
    assert found(acme) == {"red.png", "blue.png", "green.png"}


def test_live_changes_are_seen_once_each_by_a_machine_that_lags(
    shop: Shop, acme: Company, slow_store: threading.Event
) -> None:
    slow_store.set()
    assert found(acme) == {"red.png", "blue.png"}
    slow_store.clear()
    put(acme, "green.png", GREEN)
    delete_image(row(acme), "red.png", by=on_command_line())
    shop.publish(acme, {})  # the changes are part of this one, which the machine lacks
    assert not row(acme).live_changes.missing_from(publication.holds_changes_to(row(acme))).exists()
    assert found(acme) == {"blue.png", "green.png"}
    put(acme, "red.png", RED)
    delete_image(row(acme), "green.png", by=on_command_line())
    assert found(acme) == {"blue.png", "red.png"}
    slow_store.set()
    eventually(copy_of(acme).is_dir, "the new one is here")
    assert found(acme) == {"blue.png", "red.png"}
    assert publication.built_index(row(acme)).info.total_images == 2


def test_the_floor_that_rises_while_a_machine_lags_makes_it_wait_for_the_new_index(
    shop: Shop, acme: Company, slow_store: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_store.set()
    found(acme)
    slow_store.clear()
    put(acme, "green.png", GREEN)
    searching = row(acme)
    new = shop.publish(acme, {})
    held = publication.holds_changes_to(new)
    Company.objects.filter(pk=acme.pk).update(live_floor=held)
    acme.live_changes.all().delete()
    monkeypatch.setattr(replica, "REQUEST_SECONDS", 0.01)
    with pytest.raises(IndexOnItsWay):
        overlay.live_index(searching)
    slow_store.set()
    eventually(copy_of(acme).is_dir, "the new one is here")
    assert found(acme) == {"red.png", "blue.png", "green.png"}


@pytest.mark.slow
def test_a_picture_put_on_a_machine_that_lags_is_embedded_with_the_new_model(
    shop: Shop, acme: Company, slow_store: threading.Event
) -> None:
    slow_store.set()
    found(acme)
    slow_store.clear()
    new_model = FakeEmbedder(fingerprint="e" * 64)
    runtime.use(new_model)
    shop.publish(acme, {})
    put(acme, "green.png", GREEN)
    assert [change.fingerprint for change in acme.live_changes.all()] == ["e" * 64]
    slow_store.set()
    eventually(copy_of(acme).is_dir, "the new one is here")
    assert found(acme) == {"red.png", "blue.png", "green.png"}


def test_copies_answer_while_the_store_is_away_and_others_are_told_so(
    shop: Shop, acme: Company, client: Client
) -> None:
    shop.add("globex", {"green.png": GREEN})
    search(client)
    shop.go_away()
    assert search(client).status_code == 200
    answer = search(client, "globex")
    assert (answer.status_code, answer.json()["code"], answer["Retry-After"]) == (503, "store_unavailable", "2")
    assert "127.0.0.1" not in answer.json()["error"]
    assert client.get("/api/health/ready").json()["checks"]["embeddings"] == "ok"


@pytest.mark.parametrize("is_away", [False, True], ids=["there", "away"])
def test_the_front_door_neither_fetches_indexes_nor_needs_the_store(
    shop: Shop, acme: Company, client: Client, admin_client: Client, is_away: bool
) -> None:
    Company.objects.update(public_page=True)
    if is_away:
        shop.go_away()
    page = client.get("/")
    assert (page.status_code, "acme" in page.content.decode()) == (200, True)
    page_of_staff = admin_client.get("/").content.decode()
    assert ("index not to be had at the moment" in page_of_staff, "index damaged" in page_of_staff) == (is_away, False)
    assert names_here(shop) == []


def test_pictures_are_put_where_a_stray_object_keeps_the_store_from_being_listed(shop: Shop, acme: Company) -> None:
    found(acme)
    address = f"{shop.endpoint}/{shop.store(acme).url.removeprefix('s3://')}/stray//object"
    urllib.request.urlopen(urllib.request.Request(address, b"x", method="PUT")).close()
    put(acme, "green.png", GREEN)
    assert found(acme) == {"red.png", "blue.png", "green.png"}


@pytest.mark.slow
def test_pages_of_the_admin_are_there_without_the_store(shop: Shop, acme: Company, admin_client: Client) -> None:
    shop.go_away()
    admin_client.raise_request_exception = False
    for page in ("change", "delete", "pictures", "duplicates"):
        answer = admin_client.get(reverse(f"admin:tenants_company_{page}", args=[acme.pk]))
        assert (page, answer.status_code) == (page, 200)
    assert admin_client.get(reverse("admin:tenants_company_model")).status_code == 200
    answer = admin_client.post(reverse("admin:tenants_company_roll_back", args=[acme.pk]))
    assert answer.status_code in (302, 503)


@pytest.mark.slow
def test_requests_wait_seconds_for_a_store_that_hangs(shop: Shop, acme: Company, settings: Any) -> None:
    found(acme)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.STORE_ENDPOINT = f"http://127.0.0.1:{silent.getsockname()[1]}"
        key = ApiKey(company=acme, name="shop", can_write=True)
        headers = {"X-API-Key": key.draw()}
        key.save()
        began = time.monotonic()
        for name in ("green.png", "yellow.png", "other.png"):
            address, content = f"/api/images/acme/{name}", picture(GREEN).getvalue()
            assert Client(headers=headers).put(address, content, "image/png").status_code == 201
        assert time.monotonic() - began < 10


def test_a_damaged_object_is_named_and_the_index_before_answers_on(shop: Shop, acme: Company, client: Client) -> None:
    globex = shop.add("globex", {"green.png": GREEN})
    shop.damage(globex, "faiss_index.bin")
    answer = search(client, "globex")
    assert (answer.status_code, answer.json()["code"]) == (503, "index_damaged")
    assert "faiss_index.bin is damaged" in answer.json()["error"]
    assert not copy_of(globex).exists()

    assert found(acme) == {"red.png", "blue.png"}
    shop.publish(acme, {"green.png": GREEN})
    shop.damage(acme, "faiss_index.bin")
    assert found(acme) == {"red.png", "blue.png"}
    with pytest.raises(IndexCorrupt, match=r"faiss_index\.bin is damaged"):  # what is built on it would lack pictures
        publication.index_of_files(row(acme))


def test_a_damaged_copy_is_fetched_again_once(shop: Shop, acme: Company, client: Client) -> None:
    replica.at_hand(acme, str(acme.generation), wait_seconds=None)
    flip_a_byte(copy_of(acme) / "faiss_index.bin", 100)
    assert search(client).status_code == 200
    storage.require_undamaged(copy_of(acme))

    runtime.index_cache().forget(acme.pk, publication.built_index(row(acme)))
    flip_a_byte(copy_of(acme) / "faiss_index.bin", 100)
    answer = search(client)
    assert (answer.status_code, answer.json()["code"]) == (503, "index_damaged")


@pytest.mark.slow
def test_a_generation_that_is_gone_from_the_store_is_replaced_by_the_one_before(shop: Shop, acme: Company) -> None:
    new = shop.publish(acme, {"green.png": GREEN})
    remote.remove(shop.store(acme), str(new.generation))
    assert found(acme) == {"red.png", "blue.png"}
    assert publication.info(row(acme)).total_images == 2
    remote.remove(shop.store(acme), str(acme.generation))
    other = shop.add("globex", {"red.png": RED})
    remote.remove(shop.store(other), str(other.generation))
    with pytest.raises(IndexNotBuilt, match="gone from the store"):
        found(other)


def test_what_an_index_says_of_itself_is_told_without_fetching_it(shop: Shop, acme: Company) -> None:
    assert publication.count_pictures(acme) == 2
    assert publication.is_listed(acme)
    assert [each.published for each in publication.generations(acme)] == [True]
    assert names_here(shop) == []
    shop.go_away()
    with pytest.raises(StoreUnavailable):
        publication.generations(acme)


def test_a_damaged_copy_does_not_keep_the_index_from_being_told_of(shop: Shop, acme: Company) -> None:
    replica.at_hand(acme, str(acme.generation), wait_seconds=None)
    for file in copy_of(acme).iterdir():
        file.unlink()
    assert publication.info(row(acme)).total_images == 2


def test_the_least_recently_used_copies_leave(shop: Shop, settings: Any) -> None:
    companies = [shop.add(name, {"red.png": RED}) for name in ("acme", "globex", "initech")]
    for age, company in zip((300, 100, 200), companies, strict=True):
        copy = replica.at_hand(company, str(company.generation), wait_seconds=None)
        os.utime(copy, (copy.stat().st_mtime - age,) * 2)
    one = copies.copies(shop.machine)[0].bytes
    settings.REPLICA_BYTES = int(3.5 * one)
    shop_of_four = shop.add("umbrella", {"red.png": RED})
    replica.at_hand(shop_of_four, str(shop_of_four.generation), wait_seconds=None)
    assert sorted(names_here(shop)) == ["globex", "initech", "umbrella"]


def test_a_copy_that_is_loaded_stays(shop: Shop, acme: Company, settings: Any) -> None:
    index = publication.built_index(acme)
    globex = shop.add("globex", {"red.png": RED})
    settings.REPLICA_BYTES = 1
    replica.at_hand(globex, str(globex.generation), wait_seconds=None)
    assert sorted(names_here(shop)) == ["acme", "globex"]
    runtime.index_cache().forget(acme.pk, index)
    del index
    replica.make_room(0)
    assert names_here(shop) == []


@pytest.mark.slow
def test_an_earlier_copy_leaves_once_nobody_has_it_loaded(shop: Shop, acme: Company) -> None:
    replica.at_hand(acme, str(acme.generation), wait_seconds=None)
    new = shop.publish(acme, {"green.png": GREEN})
    replica.at_hand(new, str(new.generation), wait_seconds=None)
    eventually(lambda: [copy.name for copy in copies.copies(shop.machine)] == [new.generation], "the earlier leaves")


@pytest.mark.slow
def test_what_a_killed_fetch_has_left_is_cleared_away(shop: Shop, acme: Company) -> None:
    left = copy_of(acme).with_name(".fetching-20250101T000000000000-aaaaaaaa")
    left.mkdir(parents=True)
    (left / "faiss_index.bin").write_bytes(b"half")
    replica.at_hand(acme, str(acme.generation), wait_seconds=None)
    assert not left.exists()


def test_a_full_disk_is_told(shop: Shop, acme: Company, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "_free", lambda parent: 0)
    answer = search(client)
    assert (answer.status_code, answer.json()["code"]) == (503, "disk_full")
    assert "IMAGESEARCH_REPLICA_DIR" in answer.json()["error"]
    assert names_here(shop) == []


def prefetch_command(*arguments: str) -> str:
    out = StringIO()
    call_command("prefetch", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_marked_companies_are_fetched_before_anybody_searches_them(shop: Shop, acme: Company) -> None:
    shop.add("globex", {"green.png": GREEN})
    Company.objects.filter(pk=acme.pk).update(prefetch=True)
    prefetch.look()
    assert names_here(shop) == ["acme"]
    new = shop.publish(acme, {"green.png": GREEN})
    prefetch.look()
    assert copy_of(new).is_dir()


def test_marked_companies_that_have_too_little_room_do_not_push_each_other_out_again_and_again(
    shop: Shop, acme: Company, settings: Any
) -> None:
    shop.add("globex", {"green.png": GREEN})
    Company.objects.update(prefetch=True)
    settings.REPLICA_BYTES = 1
    prefetch.look()
    before = sample("imagesearch_replica_fetches_total", outcome="fetched")
    prefetch.look()
    assert len(names_here(shop)) == 1
    assert sample("imagesearch_replica_fetches_total", outcome="fetched") == before


@pytest.mark.slow
def test_copies_of_a_deleted_company_leave(shop: Shop, acme: Company) -> None:
    globex = shop.add("globex", {"green.png": GREEN})
    for company in (acme, globex):
        prefetch.fetch(company)
    Company.objects.filter(pk=acme.pk).delete()
    prefetch.look()
    assert names_here(shop) == ["globex"]


@pytest.mark.slow
def test_copies_of_a_deleted_company_leave_where_another_has_its_name(shop: Shop, acme: Company) -> None:
    found(acme)
    shop.delete(acme)
    Company.objects.create(name="acme")
    runtime.index_cache().forget(acme.pk, publication.built_index(acme))
    prefetch.look()
    assert names_here(shop) == []


@pytest.mark.slow
def test_the_command_fetches_what_is_named_or_marked(shop: Shop, acme: Company) -> None:
    globex = shop.add("globex", {"green.png": GREEN})
    assert prefetch_command("globex") == f"globex: fetched {globex.generation}\n"
    assert prefetch_command("globex") == ""  # it is here
    Company.objects.filter(pk=acme.pk).update(prefetch=True)
    assert prefetch_command() == f"acme: fetched {acme.generation}\n"


@pytest.mark.slow
def test_the_command_says_what_it_could_not_fetch(shop: Shop, acme: Company) -> None:
    shop.go_away()
    with pytest.raises(CommandError, match="Not fetched: acme"):
        prefetch_command("acme")


@pytest.mark.slow
def test_the_admin_offers_prefetch_where_there_is_a_store(shop: Shop, acme: Company, admin_client: Client) -> None:
    page = reverse("admin:tenants_company_change", args=[acme.pk])
    assert 'name="prefetch"' in admin_client.get(page).content.decode()


def test_the_metrics_tell_what_was_fetched_and_what_is_here(shop: Shop, acme: Company, client: Client) -> None:
    before = sample("imagesearch_replica_fetches_total", outcome="fetched")
    search(client)
    assert sample("imagesearch_replica_fetches_total", outcome="fetched") == before + 1
    eventually(lambda: sample("imagesearch_replica_copies") == 1, "the copy is counted")
    assert sample("imagesearch_replica_bytes") == copies.copies(shop.machine)[0].bytes


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0
