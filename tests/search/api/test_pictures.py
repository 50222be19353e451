"""Pictures and thumbnails under /api/pictures/, and the signed URLs that open them in a browser."""

import json
import time
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from PIL import Image

from search.companies.removal import delete_company
from tenants.audit import on_command_line
from tenants.models import ApiKey, Company, Confinement
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.indexes import flask_directory

MakeCompany = Callable[..., Company]

REDDISH = "Warm/red.png"
NO_ID = "00000000-0000-5000-8000-000000000000"


@pytest.fixture(autouse=True)
def cache(settings: Any, tmp_path: Path) -> Path:
    settings.CACHE_DIR = tmp_path / "cache"
    return tmp_path / "cache"


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {REDDISH: RED, "blue.png": BLUE})


@pytest.fixture
def globex(make_company: MakeCompany) -> Company:
    return make_company("globex", {"green.png": GREEN})


@pytest.fixture
def key(acme: Company) -> dict[str, str]:
    """Headers with a key of acme."""
    return {"X-API-Key": acme.issue_key("shop")[1]}


def staff(*permissions: str, name: str = "sam", **options: Any) -> dict[str, str]:
    """Return the headers of a new user with a password; permissions: of a staff user."""
    user = User.objects.create_user(name, password="secret", is_staff=True, **options)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return {"Authorization": f"Basic {b64encode(f'{name}:secret'.encode()).decode()}"}


def address(company: Company, path: str, *, thumbnail: bool = False) -> str:
    image_id = Client().get(f"/api/images/{company}/{path}").json()["image"]["id"]
    return f"/api/pictures/{company}/{image_id}" + "/thumbnail" * thumbnail


def content(response: Any) -> bytes:
    assert response.status_code == 200, response.content
    return b"".join(response.streaming_content) if response.streaming else response.content


def shown(response: Any) -> Image.Image:
    return Image.open(BytesIO(content(response)))


def colour(response: Any) -> str:
    """Return which of red, green and blue there is most of in the picture."""
    pixel: Any = shown(response).convert("RGB").getpixel((0, 0))
    return ("red", "green", "blue")[max(range(3), key=lambda channel: pixel[channel])]


def search(client: Client, company: str, **headers: str) -> Any:
    return client.post(f"/api/search/{company}", {"image": picture(RED), "urls": "true"}, headers=headers)


def links(client: Client, company: str = "acme", **headers: str) -> list[str]:
    """Return both URLs of the best match, the red picture."""
    best = search(client, company, **headers).json()["results"][0]
    return [best["url"], best["thumbnail_url"]]


def statuses(client: Client, addresses: list[str]) -> set[int]:
    return {client.get(each).status_code for each in addresses}


# What is shown ------------------------------------------------------------------------------------------------------


def test_a_key_opens_a_picture_as_it_is_and_small(client: Client, acme: Company, key: dict[str, str]) -> None:
    whole = client.get(address(acme, REDDISH), headers=key)
    assert content(whole) == (acme.image_directory / REDDISH).read_bytes()
    assert whole["Content-Type"] == "image/png"
    assert whole["Content-Disposition"] == 'inline; filename="red.png"'
    small = client.get(address(acme, REDDISH, thumbnail=True), headers=key)
    assert small["Content-Type"] == "image/jpeg"
    assert shown(small).size == (8, 8)


@pytest.mark.parametrize("size", [160, 320, 640])
def test_a_thumbnail_has_the_size_that_was_asked_for(
    client: Client, acme: Company, key: dict[str, str], size: int
) -> None:
    Image.new("RGB", (1000, 500), RED).save(acme.image_directory / REDDISH)
    response = client.get(address(acme, REDDISH, thumbnail=True), {"size": size}, headers=key)
    assert shown(response).size == (size, size // 2)


@pytest.mark.parametrize("size", ["0", "321", "many", "-160", ""])
def test_other_sizes_are_a_400(client: Client, acme: Company, key: dict[str, str], size: str) -> None:
    response = client.get(address(acme, REDDISH, thumbnail=True), {"size": size}, headers=key)
    assert (response.status_code, response.json()["code"]) == (400, "size_invalid")


def test_results_have_urls_where_they_are_asked_for(client: Client, acme: Company, key: dict[str, str]) -> None:
    plain = client.post("/api/search/acme", {"image": picture(RED)}, headers=key).json()["results"]
    assert {"url", "thumbnail_url"}.isdisjoint(plain[0])
    found = search(client, "acme", **key).json()["results"]
    assert [{name: entry[name] for name in plain[0]} for entry in found] == plain
    listed = client.get("/api/images/acme", {"urls": "true"}, headers=key).json()["images"]
    similar = client.get(f"/api/search/acme/{found[0]['id']}", {"urls": "true"}, headers=key).json()["results"]
    for entries, count in ((found, 2), (listed, 2), (similar, 1)):
        assert len(entries) == count
        for entry in entries:
            expected = "red" if entry["fullPath"] == REDDISH else "blue"
            assert {colour(client.get(entry[name])) for name in ("url", "thumbnail_url")} == {expected}


def test_live_pictures_are_shown_and_replaced_ones_are_new(client: Client, acme: Company) -> None:
    writer = {"X-API-Key": acme.issue_key("writer", can_write=True)[1]}

    def put(tone: Any) -> None:
        body = picture(tone).getvalue()
        client.generic("PUT", f"/api/images/acme/{REDDISH}", body, content_type="image/png", headers=writer)

    found = links(client, **writer)
    before = [client.get(link) for link in found]
    put(GREEN)
    after = [client.get(link, headers={"If-None-Match": old["ETag"]}) for link, old in zip(found, before, strict=True)]
    assert {colour(response) for response in after} == {"green"}
    assert all(old["ETag"] != new["ETag"] for old, new in zip(before, after, strict=True))
    client.delete(f"/api/images/acme/{REDDISH}", headers=writer)
    assert statuses(client, found) == {404}


def test_a_browser_keeps_pictures_for_its_user_alone_and_asks_before_it_shows_them(
    client: Client, acme: Company, key: dict[str, str]
) -> None:
    signed = links(client, **key)
    for each, headers in [(signed[0], {}), (signed[1], {}), (address(acme, REDDISH), key)]:
        response = client.get(each, headers=headers)
        assert response["Cache-Control"] == "private, no-cache"
        assert {"Authorization", "X-API-Key"} <= {name.strip() for name in response["Vary"].split(",")}
        again = client.get(each, headers={**headers, "If-None-Match": response["ETag"]})
        assert (again.status_code, again.content, again["ETag"]) == (304, b"", response["ETag"])
        assert again["Cache-Control"] == "private, no-cache"
        assert client.get(each, headers={**headers, "If-None-Match": '"another"'}).status_code == 200


def test_what_is_no_picture_for_the_caller_is_not_kept(client: Client, acme: Company, key: dict[str, str]) -> None:
    assert client.get(f"/api/pictures/acme/{NO_ID}", headers=key)["Cache-Control"] == "no-store"


def test_head_tells_as_much_as_get(client: Client, acme: Company, key: dict[str, str]) -> None:
    for each in links(client, **key):
        got, told = client.get(each), client.head(each)
        assert (told.status_code, told.content if not told.streaming else b"") == (200, b"")
        for name in ("ETag", "Content-Type", "Content-Length"):
            assert told[name] == got[name]


HTML = b"<!DOCTYPE html><script>alert(document.domain)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("begins", "told"),
    [(HTML, None), (SVG, None), (b"GIF89a" + HTML, "image/gif"), (b"", None), (b"\xff\xd8\xff", "image/jpeg")],
)
def test_nothing_in_a_file_can_run(
    client: Client, acme: Company, key: dict[str, str], begins: bytes, told: str | None
) -> None:
    """A file may have been replaced by anything since it was indexed."""
    (acme.image_directory / REDDISH).write_bytes(begins)
    link, thumbnail = links(client, **key)
    response = client.get(link)
    assert content(response) == begins
    assert response["Content-Type"] == (told or "application/octet-stream")
    assert response["Content-Disposition"].startswith("inline" if told else "attachment")
    assert response["X-Content-Type-Options"] == "nosniff"
    policy = [part.strip() for part in response["Content-Security-Policy"].split(";")]
    assert {"default-src 'none'", "sandbox"} <= set(policy)
    assert "script-src" not in response["Content-Security-Policy"]
    small = client.get(thumbnail)
    assert (small.status_code, small.json()["code"]) == (404, "picture_gone")


def test_a_file_that_is_gone_is_a_404_with_words(client: Client, acme: Company, key: dict[str, str]) -> None:
    (acme.image_directory / REDDISH).unlink()
    for link in links(client, **key):
        answer = client.get(link)
        assert (answer.status_code, answer.json()["code"]) == (404, "picture_gone")
        assert str(acme.image_directory) not in answer.content.decode()


def test_links_lead_nowhere_outside_of_the_folder(
    client: Client, acme: Company, key: dict[str, str], tmp_path: Path
) -> None:
    found, secret = links(client, **key), paint(tmp_path / "secret.png", GREEN)
    file = acme.image_directory / REDDISH
    file.unlink()
    file.symlink_to(secret)
    assert statuses(client, found) == {404}
    file.unlink()
    file.symlink_to(acme.image_directory / "blue.png")
    assert {colour(client.get(link)) for link in found} == {"blue"}
    file.unlink()
    file.parent.rmdir()
    paint(tmp_path / "elsewhere/red.png", GREEN)
    file.parent.symlink_to(tmp_path / "elsewhere")
    assert statuses(client, found) == {404}


@pytest.mark.parametrize("odd", ["a/b", "../x", "é ?#%", "\ud800", "", "\n"])
def test_ids_that_another_program_gave_break_no_answer(
    client: Client, db: None, embedder: FakeEmbedder, odd: str
) -> None:
    company = Company.objects.create(name="acme", public_page=True)
    paint(company.image_directory / "a.png", RED)
    vectors = embedder.embed([embedder.prepare(Image.new("RGB", (8, 8), RED))])
    (given,) = flask_directory(company.embeddings_directory, vectors, ["a.png"])
    metadata = company.embeddings_directory / "metadata.json"
    metadata.write_text(metadata.read_text().replace(f'"{given}"', json.dumps(odd)))
    assert search(client, "acme").json()["results"][0]["id"] == odd
    assert statuses(client, links(client)) <= {200, 404}


# Who may see what ---------------------------------------------------------------------------------------------------


def test_pictures_are_not_public_where_searching_is(client: Client, acme: Company) -> None:
    assert client.post("/api/search/acme", {"image": picture(RED)}).status_code == 200
    for thumbnail in (False, True):
        response = client.get(address(acme, REDDISH, thumbnail=thumbnail))
        assert (response.status_code, response.json()["code"]) == (401, "credentials_missing")
    for response in (search(client, "acme"), client.get("/api/images/acme", {"urls": "true"})):
        assert (response.status_code, response.json()["code"]) == (401, "credentials_missing")


@pytest.mark.parametrize("required", ["off", "required"])
def test_who_sees_pictures(client: Client, acme: Company, globex: Company, settings: Any, required: str) -> None:
    green = {small: address(globex, "green.png", thumbnail=small) for small in (False, True)}
    red = {small: address(acme, REDDISH, thumbnail=small) for small in (False, True)}
    settings.API_KEYS = required
    confined = staff("view_company", name="confined")
    Confinement.objects.create(user=User.objects.get(username="confined")).companies.add(acme)
    callers: dict[str, tuple[dict[str, str], bool, bool]] = {  # headers; sees acme, globex
        "stranger": ({}, False, False),
        "key of acme": ({"X-API-Key": acme.issue_key("a")[1]}, True, False),
        "key of globex": ({"X-API-Key": globex.issue_key("g")[1]}, False, True),
        "staff": (staff("view_company"), True, True),
        "staff without the permission": (staff("change_company", name="changer"), False, False),
        "confined staff": (confined, True, False),
        "user": (staff("view_company", name="user") | {}, False, False),
    }
    User.objects.filter(username="user").update(is_staff=False)
    for small in (False, True):
        for caller, (headers, sees_acme, sees_globex) in callers.items():
            for target, sees in ((red[small], sees_acme), (green[small], sees_globex)):
                status = client.get(target, headers=headers).status_code
                assert (status == 200) is sees, (caller, target, status)
                assert status in ({200} if sees else {400, 401, 403}), (caller, target)
    assert (search(client, "globex", **callers["staff"][0])).status_code == 200


def test_everybody_sees_the_pictures_of_a_public_page(
    client: Client, acme: Company, globex: Company, settings: Any
) -> None:
    Company.objects.filter(pk=acme.pk).update(public_page=True)
    both = [address(acme, REDDISH, thumbnail=small) for small in (False, True)]
    found = links(client)
    for settings.API_KEYS in ("off", "required"):
        assert statuses(client, both + found) == {200}
    other = {"X-API-Key": globex.issue_key("g")[1]}  # which shows its own company and nothing else
    assert {client.get(each, headers=other).status_code for each in both} == {400}
    Company.objects.filter(pk=acme.pk).update(public_page=False)
    settings.API_KEYS = "off"
    assert statuses(client, both) == {401}
    assert statuses(client, found) == {403}


@pytest.mark.parametrize("query", ["", f"?{urlencode({'signed': 'p.9999999999.' + 'a' * 43})}"])
@pytest.mark.parametrize("small", [False, True])
def test_a_hidden_company_looks_like_one_that_does_not_exist(
    client: Client, acme: Company, globex: Company, query: str, small: bool
) -> None:
    """The answer, and what the database is asked, are the same."""
    Company.objects.filter(pk=acme.pk).update(requires_api_key=True)
    other = {"X-API-Key": globex.issue_key("g")[1]}
    client.get("/api/companies", headers=other)  # the note of a key's first use is behind it
    for headers in ({}, other):
        seen = []
        for name in ("acme", "none"):
            with CaptureQueriesContext(connection) as queries:
                response = client.get(f"/api/pictures/{name}/{NO_ID}{'/thumbnail' * small}{query}", headers=headers)
            seen.append((response.status_code, response.content.replace(name.encode(), b"*"), len(queries)))
        assert seen[0] == seen[1]


def test_a_picture_is_found_in_its_own_company_alone(
    client: Client, acme: Company, globex: Company, key: dict[str, str]
) -> None:
    image_id = address(globex, "green.png").rpartition("/")[2]
    assert client.get(f"/api/pictures/acme/{image_id}", headers=key).json()["code"] == "image_not_found"


# Signed URLs --------------------------------------------------------------------------------------------------------


def altered(link: str, **changes: str) -> str:
    """Return a signed URL with another viewer, expiry, signature, size, id or company."""
    parts = urlsplit(link)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    viewer, expires, signature = query["signed"].split(".")
    token = [changes.get("viewer", viewer), changes.get("expires", expires), changes.get("signature", signature)]
    query |= {"signed": ".".join(token)} | ({"size": changes["size"]} if "size" in changes else {})
    path = parts.path.split("/")
    path[3:5] = [changes.get("company", path[3]), changes.get("id", path[4])]
    return f"{'/'.join(path)}?{urlencode(query)}"


def test_whatever_is_altered_in_a_link_it_opens_nothing(
    client: Client, acme: Company, globex: Company, key: dict[str, str]
) -> None:
    user = User.objects.create_superuser("boss")
    other_key, _ = acme.issue_key("other")
    blue, green = (address(c, p).rpartition("/")[2] for c, p in ((acme, "blue.png"), (globex, "green.png")))
    whole, small = links(client, **key)
    signature = urlsplit(whole).query.rpartition(".")[2]
    assert altered(whole) == whole
    for link in (whole, small):
        for changes in (
            {"viewer": "p"},
            {"viewer": f"u{user.pk}"},
            {"viewer": f"k{other_key.prefix}"},
            {"viewer": ""},
            {"expires": "9999999999"},
            {"expires": "0" + urlsplit(link).query.split(".")[-2]},
            {"expires": ""},
            {"signature": signature[:-1] + ("A" if signature[-1] != "A" else "B")},
            {"signature": signature[:-1]},
            {"signature": ""},
            {"signature": "é\0"},
            {"id": blue},
            {"id": green},
            {"company": "globex"},
            {"company": "globex", "id": green},
            {"company": "none"},
            {"company": "ACME"},
        ):
            response = client.get(altered(link, **changes))
            assert (response.status_code, response.json()["code"]) == (403, "link_refused"), changes
    assert client.get(altered(small, size="640")).status_code == 403
    assert client.get(whole.replace("?", "/thumbnail?")).status_code == 403
    assert client.get(small.replace("/thumbnail", "")).status_code == 403


@pytest.mark.parametrize("token", ["", "x", "a.b", "a.b.c.d", "p.9.é", "\0", "k.1." * 9000])
def test_hostile_tokens_are_a_403(client: Client, acme: Company, token: str) -> None:
    assert client.get(f"{address(acme, REDDISH)}?{urlencode({'signed': token})}").status_code == 403


def test_a_link_works_for_one_to_two_hours(
    client: Client, acme: Company, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(moment: float) -> None:
        monkeypatch.setattr("search.http.signed_urls.time.time", lambda: moment)

    hour = time.time() // 3600 * 3600
    at(hour + 60)
    first = links(client, **key)
    at(hour + 3599)
    assert links(client, **key) == first  # so that a browser knows them again
    at(hour + 7199)
    assert statuses(client, first) == {200}
    at(hour + 7200)
    assert statuses(client, first) == {403}
    assert statuses(client, links(client, **key)) == {200}


def _revoke(company: Company) -> None:
    ApiKey.objects.get().revoke()


def _expire(company: Company) -> None:
    ApiKey.objects.update(expires=timezone.now() - timedelta(seconds=1))


def _switch_off(company: Company) -> None:
    Company.objects.update(active=False)


def _delete(company: Company) -> None:
    delete_company(company, by=on_command_line())


@pytest.mark.parametrize("happens", [_revoke, _expire, _switch_off, _delete])
def test_links_of_a_key_end_with_it_and_with_its_company(
    client: Client, acme: Company, key: dict[str, str], happens: Callable[[Company], None]
) -> None:
    found = links(client, **key)
    assert statuses(client, found) == {200}
    happens(acme)
    assert statuses(client, found) == {403}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("keeps_its_number", [False, True])
def test_links_to_a_company_do_not_open_one_made_anew_under_its_name(
    client: Client, acme: Company, keeps_its_number: bool
) -> None:
    """Its pictures and their ids are the same; a restored database gives primary keys out again."""
    Company.objects.update(public_page=True)
    found = links(client)
    assert statuses(client, found) == {200}
    pk = acme.pk if keeps_its_number else None
    delete_company(acme, by=on_command_line(), remove_index=True)
    Company.objects.create(pk=pk, name="acme", public_page=True)
    call_command("build_embeddings", company="acme")
    assert statuses(client, links(client)) == {200}
    assert statuses(client, found) == {403}


def _take_permission(user: User) -> None:
    user.user_permissions.clear()


def _deactivate(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def _demote(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_staff=False)


def _confine(user: User) -> None:
    Confinement.objects.create(user=user)


def _delete_user(user: User) -> None:
    user.delete()


@pytest.mark.parametrize("happens", [_take_permission, _deactivate, _demote, _confine, _delete_user])
def test_links_of_staff_end_with_what_they_may(client: Client, acme: Company, happens: Callable[[User], None]) -> None:
    found = links(client, **staff("view_company"))
    assert statuses(client, found) == {200}
    happens(User.objects.get(username="sam"))
    assert statuses(client, found) == {403}


def test_links_outlast_a_new_secret_key_as_sessions_do(
    client: Client, acme: Company, key: dict[str, str], settings: Any
) -> None:
    found = links(client, **key)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", [settings.SECRET_KEY]
    assert statuses(client, found) == {200}
    settings.SECRET_KEY_FALLBACKS = []
    assert statuses(client, found) == {403}


def test_a_wrong_key_is_refused_beside_a_link(client: Client, acme: Company, key: dict[str, str]) -> None:
    for link in links(client, **key):
        assert client.get(link, headers={"X-API-Key": "wrong"}).status_code == 401


# How often ----------------------------------------------------------------------------------------------------------


def test_pictures_have_a_rate_of_their_own(
    client: Client, acme: Company, key: dict[str, str], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, small = links(client, **key)
    settings.RATE_PER_KEY = settings.RATE_PER_ADDRESS = (1, 86400)
    settings.RATE_PICTURES = (3, 86400)
    assert [client.get(each).status_code for each in (whole, small, small, whole)] == [200, 200, 200, 429]
    assert int(client.get(small)["Retry-After"]) > 0
    assert client.get("/api/images/acme").status_code == 200  # of the address's own rate nothing is used up
    mine = address_of(whole)
    assert [client.get(mine, headers=key).status_code for _ in range(4)] == [200, 200, 200, 429]


def address_of(link: str) -> str:
    return urlsplit(link).path
