"""A company's pictures in the admin: the list, one picture, deleting and replacing, and who may."""

from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from search.admin import grid
from search.engine.index.records import image_id
from tenants.models import AuditEvent, Company, Confinement
from tests.conftest import Colleague, paint, picture
from tests.search.admin.conftest import MakeCompany
from tests.support.admin import CHANGE, VIEW, messages, rebuild, search_names, stored_below, text, upload, url
from tests.support.fakes import BLUE, GREEN, RED
from tests.support.indexes import flask_directory, some_vectors


@pytest.fixture
def shop(make_company: MakeCompany) -> Company:
    return make_company(
        "shop",
        {"top.png": RED, "Hats/red-1.png": RED, "Hats/Felt/red-2.png": RED, "Shoes/blue.png": BLUE},
    )


def listed(client: Client, company: Company, **query: Any) -> list[str]:
    """Return the paths of the tiles, as the page shows them."""
    answer = client.get(url("pictures", company), query)
    assert answer.status_code == 200
    return [tile.path for tile in answer.context["grid"].tiles]


def tree(client: Client, company: Company, **query: Any) -> list[tuple[str, int]]:
    branches = client.get(url("pictures", company), query).context["grid"].branches
    return [("  " * (branch.level - 1) + branch.name, branch.count) for branch in branches]


def post(client: Client, view: str, company: Company, *paths: str, **form: Any) -> Any:
    ids = [image_id(company.name, path) for path in paths]
    return client.post(url(view, company), {"id": ids, **form}, follow=True)


def delete(client: Client, company: Company, *paths: str, **form: Any) -> Any:
    return post(client, "delete_pictures", company, *paths, confirmed="1", **form)


# The list


def test_pictures_are_listed_by_folder(admin_client: Client, shop: Company) -> None:
    assert listed(admin_client, shop) == ["Hats/Felt/red-2.png", "Hats/red-1.png", "Shoes/blue.png", "top.png"]
    assert listed(admin_client, shop, folder="Hats") == ["Hats/Felt/red-2.png", "Hats/red-1.png"]
    assert listed(admin_client, shop, folder="Nowhere") == []
    assert tree(admin_client, shop) == [("Hats", 2), ("Shoes", 1)]
    assert tree(admin_client, shop, folder="Hats") == [("Hats", 2), ("  Felt", 1), ("Shoes", 1)]


def test_pictures_are_searched_by_name_in_a_folder(admin_client: Client, shop: Company) -> None:
    assert listed(admin_client, shop, q="RED") == ["Hats/Felt/red-2.png", "Hats/red-1.png"]
    assert listed(admin_client, shop, q="red", folder="Hats/Felt") == ["Hats/Felt/red-2.png"]
    page = admin_client.get(url("pictures", shop), {"q": "green", "folder": "Hats"})
    assert "No picture in this folder has “ green ” in its name" in text(page.content.decode())


def test_many_pictures_come_in_pages_that_keep_the_place(
    admin_client: Client, shop: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "PICTURES_A_PAGE", 1)
    assert listed(admin_client, shop, page="3") == ["Shoes/blue.png"]
    assert listed(admin_client, shop, folder="Hats", page="99") == ["Hats/red-1.png"]
    assert listed(admin_client, shop, q="red", page="2") == ["Hats/red-1.png"]
    page = admin_client.get(url("pictures", shop), {"folder": "Hats", "q": "red", "page": "1"}).content.decode()
    assert "?folder=Hats&q=red&page=2" in unescape(page)


@pytest.mark.parametrize("page", ["0", "-1", "x", "", "٣", "9" * 50])
def test_a_page_that_is_no_number_is_the_first(admin_client: Client, shop: Company, page: str) -> None:
    assert len(listed(admin_client, shop, page=page)) == 4


def test_a_search_by_name_ends_after_so_many(
    admin_client: Client, shop: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "NAMED_SHOWN", 2)
    page = admin_client.get(url("pictures", shop), {"q": "png"})
    assert "the first 2 pictures" in text(page.content.decode())
    assert "write more of it" in text(page.content.decode())


def test_live_changes_show_at_once(admin_client: Client, shop: Company) -> None:
    delete(admin_client, shop, "Hats/Felt/red-2.png")
    assert "Hats/Felt/red-2.png" not in listed(admin_client, shop)
    assert tree(admin_client, shop, folder="Hats") == [("Hats", 1), ("Shoes", 1)]


def test_a_company_without_pictures_says_how_to_get_some(admin_client: Client, db: None) -> None:
    company = Company.objects.create(name="acme")
    page = text(admin_client.get(url("pictures", company)).content.decode())
    assert "acme has no pictures yet. Upload some" in page


def test_a_damaged_index_is_named(admin_client: Client, shop: Company) -> None:
    (shop.embeddings_directory.resolve() / "index_info.json").write_text("{")
    page = admin_client.get(url("pictures", shop))
    assert (page.status_code, "can't be listed" in text(page.content.decode())) == (200, True)


def test_thumbnails_are_shown_by_signed_urls_of_who_looks(colleague: Colleague, shop: Company) -> None:
    page = colleague(VIEW).get(url("pictures", shop))
    stranger = Client()
    assert stranger.get(page.context["grid"].tiles[0].thumbnail_url).status_code == 200
    User.objects.update(is_active=False)
    assert stranger.get(page.context["grid"].tiles[0].thumbnail_url).status_code != 200


# Odd names


@pytest.mark.parametrize(
    "path",
    [
        "qu\"o'te & <b>/x'\"<script>.png",
        "new\nline/tab\t.png",
        "a?b#c%20d/100 % &q=1.png",
        "עברית/מכנסיים 7.png",
        "中文/\U0001f600.png",
        "+a b+/ x .png",
    ],
)
def test_odd_names_are_shown_and_found_again(admin_client: Client, make_company: MakeCompany, path: str) -> None:
    company = make_company("odd", {path: RED, "plain.png": BLUE})
    page = admin_client.get(url("pictures", company)).content.decode()
    assert "<script>.png" not in page
    folder = path.rpartition("/")[0]
    assert listed(admin_client, company, folder=folder) == [path]
    assert listed(admin_client, company, q=path.rpartition("/")[2].strip()) == [path]
    link = next(each.query for each in admin_client.get(url("pictures", company)).context["grid"].branches)
    assert parse_qs(link[1:])["folder"] == [folder.split("/")[0]]
    one = admin_client.get(reverse("admin:tenants_company_picture", args=[company.pk]), {"id": image_id("odd", path)})
    assert one.context["tile"].path == path
    delete(admin_client, company, path)
    assert listed(admin_client, company) == ["plain.png"]
    assert stored_below(company.image_directory) == {"plain.png"}


def test_names_that_are_no_utf8_break_no_page(admin_client: Client, db: None) -> None:
    """As the Flask service listed them; their files are not found, and what is asked of them is refused in words."""
    company = Company.objects.create(name="flask")
    paths = ["\udcff/a\udcfe.png", "b\udcfd.png", "good.png"]
    ids = flask_directory(company.embeddings_directory, some_vectors(3), paths)
    assert listed(admin_client, company) == ["\\udcff/a\\udcfe.png", "b\\udcfd.png", "good.png"]
    assert tree(admin_client, company) == [("\\udcff", 1)]
    one = admin_client.get(url("picture", company), {"id": ids[0]})
    assert "The file is gone" in text(one.content.decode())
    form = {"id": ids[0], "confirmed": "1"}
    answer = admin_client.post(url("delete_pictures", company), form, follow=True)
    assert "not valid UTF-8" in messages(answer)
    answer = admin_client.post(url("replace_picture", company), {"id": ids[0], "image": picture(RED)}, follow=True)
    assert "not valid UTF-8" in messages(answer)


# One picture


def test_a_pictures_page_tells_what_it_is(admin_client: Client, shop: Company) -> None:
    path = "Hats/red-1.png"
    query = {"id": image_id("shop", path), "folder": "Hats"}
    answer = admin_client.get(url("picture", shop), query)
    page, file = text(answer.content.decode()), answer.context["details"].file
    assert path in page
    assert image_id("shop", path) in page
    assert (file.width, file.height, file.kind) == (8, 8, "PNG")
    assert file.size == (shop.image_directory / path).stat().st_size
    assert f"({file.size} bytes)" in page
    assert f'href="/search/shop/?like={image_id("shop", path)}"' in answer.content.decode()
    assert f'href="{url("pictures", shop)}?folder=Hats"' in answer.content.decode()


def test_a_picture_whose_file_is_gone_or_broken_says_so(admin_client: Client, shop: Company) -> None:
    query = {"id": image_id("shop", "top.png")}
    (shop.image_directory / "top.png").write_bytes(b"nothing")
    assert "Not a picture of an allowed type" in text(admin_client.get(url("picture", shop), query).content.decode())
    (shop.image_directory / "top.png").unlink()
    assert "The file is gone" in text(admin_client.get(url("picture", shop), query).content.decode())
    delete(admin_client, shop, "top.png")
    assert "it was deleted meanwhile" in messages(admin_client.get(url("picture", shop), query, follow=True))


# Deleting and replacing


def test_several_are_deleted_once_that_is_confirmed(admin_client: Client, shop: Company) -> None:
    chosen = ["Hats/red-1.png", "Shoes/blue.png"]
    asked = post(admin_client, "delete_pictures", shop, *chosen, folder="Hats", page="2")
    assert "Delete 2 pictures?" in text(asked.content.decode())
    assert len(listed(admin_client, shop)) == 4
    done = delete(admin_client, shop, *chosen, folder="Hats")
    assert "Deleted 2 pictures" in messages(done)
    assert urlsplit(done.redirect_chain[-1][0]).query == "folder=Hats"
    assert stored_below(shop.image_directory) == {"top.png", "Hats/Felt/red-2.png"}
    assert search_names(shop) == {"top.png", "Hats/Felt/red-2.png"}
    events = AuditEvent.objects.filter(action=AuditEvent.Action.PICTURE_DELETED)
    assert {(event.actor, event.detail) for event in events} == {("ann", path) for path in chosen}


def test_nothing_chosen_deletes_nothing_and_says_so(admin_client: Client, shop: Company) -> None:
    assert "choose those to delete" in messages(delete(admin_client, shop))
    assert "choose those to delete" in messages(delete(admin_client, shop, "never there.png"))
    too_many = "confirmed=1" + "".join(f"&id={number}" for number in range(201))
    kind = "application/x-www-form-urlencoded"
    answer = admin_client.post(url("delete_pictures", shop), too_many, content_type=kind, follow=True)
    assert "at most 200" in messages(answer)
    assert len(stored_below(shop.image_directory)) == 4


def test_a_picture_is_replaced_and_found_at_once(admin_client: Client, shop: Company) -> None:
    before = listed(admin_client, shop)
    done = post(admin_client, "replace_picture", shop, "Hats/red-1.png", image=picture(GREEN))
    assert "Hats/red-1.png was replaced" in messages(done)
    assert (shop.image_directory / "Hats/red-1.png").read_bytes() == picture(GREEN).getvalue()
    assert listed(admin_client, shop) == before
    found = Client().post("/api/search/shop", {"image": picture(GREEN)}).json()["results"][0]
    assert (found["fullPath"], found["score"]) == ("Hats/red-1.png", 1.0)
    assert AuditEvent.objects.get(action=AuditEvent.Action.PICTURE_PUT).actor == "ann"
    again = post(admin_client, "replace_picture", shop, "Hats/red-1.png", image=picture(GREEN))
    assert "Nothing has changed" in messages(again)


def test_what_is_no_picture_of_its_type_replaces_nothing(admin_client: Client, shop: Company) -> None:
    done = post(admin_client, "replace_picture", shop, "top.png", image=picture(GREEN, "x.jpg"))
    assert "Named .png but contains a JPEG picture" in messages(done)
    assert "choose a picture" in messages(post(admin_client, "replace_picture", shop, "top.png"))
    gone = post(admin_client, "replace_picture", shop, "never.png", image=picture(GREEN))
    assert "deleted meanwhile" in messages(gone)
    assert search_names(shop) == {"top.png", "Hats/red-1.png", "Hats/Felt/red-2.png", "Shoes/blue.png"}


def test_a_folder_that_cannot_be_written_to_is_told(admin_client: Client, shop: Company, tmp_path: Path) -> None:
    (shop.image_directory / "top.png").unlink()
    (shop.image_directory / "top.png").mkdir()
    assert "was not deleted" in messages(delete(admin_client, shop, "top.png"))


# Who may


def test_who_may_only_view_sees_no_button_and_is_refused(colleague: Colleague, shop: Company) -> None:
    client = colleague(VIEW)
    one = {"id": image_id("shop", "top.png")}
    for page, query in (("pictures", {}), ("picture", one)):
        content = client.get(url(page, shop), query).content.decode()
        assert "Delete" not in content
        assert "Replace" not in content
        assert 'type="file"' not in content
        assert 'type="checkbox"' not in content
    for page in ("delete_pictures", "replace_picture"):
        assert client.post(url(page, shop), {**one, "confirmed": "1", "image": picture(RED)}).status_code == 403
    assert len(stored_below(shop.image_directory)) == 4


def test_without_a_permission_there_is_nothing_to_see(colleague: Colleague, shop: Company) -> None:
    for client, status in ((colleague("view_indexbuild"), 403), (Client(), 302)):
        for page in ("pictures", "picture", "thumbnail"):
            assert client.get(url(page, shop), {"path": "top.png"}).status_code == status


def test_changes_need_a_token_and_a_post(shop: Company) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("admin"))
    form = {"id": image_id("shop", "top.png"), "confirmed": "1", "image": picture(GREEN)}
    for page in ("delete_pictures", "replace_picture"):
        assert client.get(url(page, shop)).status_code == 405
        assert client.post(url(page, shop), form).status_code == 403
    assert search_names(shop) >= {"top.png"}


def test_other_companies_do_not_exist_for_confined_staff(
    colleague: Colleague, shop: Company, make_company: MakeCompany
) -> None:
    other = make_company("globex", {"top.png": RED})
    client = colleague(VIEW, CHANGE)
    confinement = Confinement.objects.create(user=User.objects.latest("pk"))
    confinement.companies.set([other])
    assert listed(client, other) == ["top.png"]
    ids = {"id": image_id("shop", "top.png"), "path": "top.png"}
    for page in ("pictures", "picture", "thumbnail"):
        assert client.get(url(page, shop), ids).status_code == 404
    for page in ("delete_pictures", "replace_picture", "upload"):
        form = {**ids, "confirmed": "1", "image": picture(GREEN), "files": picture(GREEN, "x.png")}
        assert client.post(url(page, shop), form).status_code == 404
    assert len(stored_below(shop.image_directory)) == 4
    assert delete(client, other, "../shop/top.png").status_code == 200
    assert post(client, "delete_pictures", other, confirmed="1", id=ids["id"]).status_code == 200
    assert len(stored_below(shop.image_directory)) == 4


# Uploads


def test_an_upload_shows_what_was_stored_and_what_lies_there_already(admin_client: Client, shop: Company) -> None:
    page = upload(admin_client, shop, picture(GREEN, "new.png"), picture(RED, "top.png"))
    (stored,), (refused,) = page.context["stored"], page.context["refused"]
    for shown in (stored, refused):
        thumbnail = admin_client.get(shown.thumbnail_url)
        assert (thumbnail.status_code, thumbnail["Content-Type"]) == (200, "image/jpeg")
    assert admin_client.get(url("thumbnail", shop), {"path": "never.png"}).status_code == 404
    for path in ("../shop/top.png", "/etc/passwd", ".uploads/x.png", "", "\0.png"):
        assert admin_client.get(url("thumbnail", shop), {"path": path}).status_code == 404


def test_a_script_learns_what_became_of_an_upload(admin_client: Client, shop: Company) -> None:
    files = [picture(GREEN, "a.png"), picture(RED, "b.jpg"), picture(RED, "c.png")]
    form = {"files": files, "path": ["Top/Sub/a.png", "../b.jpg", "Top/c.png"], "location": "New"}
    answer = admin_client.post(url("upload", shop), form, headers={"Accept": "application/json"})
    body = answer.json()
    assert [entry["path"] for entry in body["stored"]] == ["New/Top/Sub/a.png", "New/Top/c.png"]
    assert [(entry["path"], entry["thumbnail_url"]) for entry in body["refused"]] == [("../b.jpg", "")]
    assert (body["stored_count"], body["refused_count"], body["ignored"]) == (2, 1, 0)
    assert any("is queued" in message for message in body["messages"])
    assert "is queued" not in messages(admin_client.get(url("change", shop)))
    nothing = admin_client.post(url("upload", shop), {}, headers={"Accept": "application/json"})
    assert (nothing.status_code, "choose pictures" in nothing.json()["error"]) == (400, True)


def test_pictures_that_a_build_has_taken_up_are_listed(admin_client: Client, shop: Company) -> None:
    paint(shop.image_directory / "Hats/new.png", GREEN)
    rebuild(shop)
    assert listed(admin_client, shop, folder="Hats") == ["Hats/Felt/red-2.png", "Hats/new.png", "Hats/red-1.png"]
    assert tree(admin_client, shop)[0] == ("Hats", 3)
