"""The search page without its script: who may open it, what it finds, and what it says where it finds nothing."""

import re
import shlex
from collections.abc import Callable
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from PIL import Image
from rest_framework.test import APIClient

from search.pictures import put_image
from tenants.audit import on_command_line
from tenants.models import Company, Confinement, DailySearches
from tests.conftest import Colour, picture
from tests.support.admin import rebuild, text
from tests.support.fakes import BLUE, GREEN, RED
from tests.support.indexes import flask_directory, some_vectors

MakeCompany = Callable[..., Company]
Colleague = Callable[..., Client]
DARK_RED = (200, 0, 0)


@pytest.fixture(autouse=True)
def cache(settings: Any, tmp_path: Path) -> None:
    settings.CACHE_DIR = tmp_path / "cache"


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    """A company whose page is public."""
    company = make_company("acme", {"Warm/red.png": RED, "Warm/Dark/wine.png": DARK_RED, "blue.png": BLUE})
    Company.objects.filter(pk=company.pk).update(public_page=True)
    return company


@pytest.fixture
def globex(make_company: MakeCompany) -> Company:
    """A company whose page is not."""
    return make_company("globex", {"green.png": GREEN})


@pytest.fixture
def many(make_company: MakeCompany) -> Company:
    """A company with enough pictures to tell how well they match."""
    colours = [RED, (255, 100, 0), (255, 0, 100), (255, 90, 90), (180, 110, 0), (180, 0, 110), (60, 40, 40), GREEN]
    names_of = ["red", "orange", "pink", "rose", "brown", "plum", "dark", "green"]
    company = make_company("acme", {f"{name}.png": colour for name, colour in zip(names_of, colours, strict=True)})
    Company.objects.filter(pk=company.pk).update(public_page=True)
    return company


def page_of(company: str) -> str:
    return reverse("search-page", args=[company])


def search(client: Client, company: str, colour: tuple[int, int, int] = RED, **fields: Any) -> Any:
    return client.post(page_of(company), {"image": picture(colour), **fields})


def halves(left: Colour, right: Colour) -> BytesIO:
    """Return an upload whose left half has one colour, and the right half another."""
    canvas, file = Image.new("RGB", (64, 64), left), BytesIO()
    canvas.paste(right, (32, 0, 64, 64))
    canvas.save(file, "PNG")
    file.name = "halves.png"
    file.seek(0)
    return file


def names(response: HttpResponse) -> list[str]:
    """Return the names of the pictures that a page shows, in their order."""
    return re.findall(r'<p class="name"[^>]*>([^<]*)</p>', response.content.decode())


def ids(response: HttpResponse) -> list[str]:
    return re.findall(r'href="\?like=([^&"]+)', response.content.decode())


def command_of(response: HttpResponse) -> list[str]:
    """Return the words of the curl command that a page shows, as a shell reads them."""
    command = re.search(r"<code>(.*?)</code>", response.content.decode(), re.DOTALL)
    assert command
    return shlex.split(unescape(command[1]).replace("\\\n", ""))


# Who may --------------------------------------------------------------------------------------------------------------


def test_stranger_searches_a_public_page(client: Client, acme: Company) -> None:
    response = search(client, "acme")
    assert response.status_code == 200
    assert names(response) == ["red", "wine", "blue"]


def test_stranger_cannot_tell_a_hidden_company_from_an_unknown_one(client: Client, globex: Company) -> None:
    for company in ("globex", "nobody"):
        for response in (client.get(page_of(company)), search(client, company)):
            assert response.status_code == 302
            assert response["Location"] == f"/admin/login/?next=/search/{company}/"


def test_staff_who_may_view_companies_search_them(colleague: Colleague, globex: Company) -> None:
    assert names(search(colleague("view_company"), "globex")) == ["green"]


def test_staff_without_the_permission_cannot_tell_a_hidden_company_from_an_unknown_one(
    colleague: Colleague, globex: Company
) -> None:
    client = colleague("view_apikey")
    hidden, unknown = search(client, "globex"), search(client, "nobody")
    assert hidden.status_code == unknown.status_code == 404
    assert text(hidden.content.decode()).replace("globex", "nobody") == text(unknown.content.decode())


def test_confined_staff_search_their_own_companies_and_public_ones(acme: Company, globex: Company) -> None:
    user = User.objects.create_user("cara", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_company"))
    confinement = Confinement.objects.create(user=user)
    client = Client()
    client.force_login(user)
    assert client.get(page_of("globex")).status_code == 404
    assert client.get(page_of("acme")).status_code == 200
    confinement.companies.add(globex)
    assert names(search(client, "globex")) == ["green"]


def test_company_that_is_switched_off_has_no_page(colleague: Colleague, acme: Company) -> None:
    Company.objects.update(active=False)
    assert colleague("view_company").get(page_of("acme")).status_code == 404
    assert Client().get(page_of("acme")).status_code == 302


def test_key_opens_no_page(client: Client, globex: Company) -> None:
    headers = {"X-API-Key": globex.issue_key("shop")[1]}
    assert client.get(page_of("globex"), headers=headers).status_code == 302


def test_public_page_of_a_company_that_requires_keys_is_open(client: Client, acme: Company, settings: Any) -> None:
    Company.objects.update(requires_api_key=True)
    settings.API_KEYS = "required"
    assert names(search(client, "acme")) == ["red", "wine", "blue"]


@pytest.mark.parametrize("is_staff", [True, False])
def test_post_from_another_site_is_refused(colleague: Colleague, acme: Company, is_staff: bool) -> None:
    client = colleague("view_company", enforce_csrf_checks=True) if is_staff else Client(enforce_csrf_checks=True)
    response = search(client, "acme")
    assert response.status_code == 403
    assert "Reload it and try again" in text(response.content.decode())
    page = client.get(page_of("acme")).content.decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert token
    assert names(search(client, "acme", csrfmiddlewaretoken=token[1])) == ["red", "wine", "blue"]


def test_visitors_choose_among_the_companies_that_they_may_search(
    client: Client, colleague: Colleague, acme: Company, globex: Company
) -> None:
    assert client.get("/search/")["Location"] == page_of("acme")  # the only one for strangers
    choice = colleague("view_company").get("/search/").content.decode()
    assert page_of("acme") in choice
    assert page_of("globex") in choice
    Company.objects.update(public_page=False)
    assert client.get("/search/")["Location"] == "/admin/login/?next=/search/"
    assert "Ask whoever manages this server" in colleague("view_apikey").get("/search/").content.decode()


# What it shows --------------------------------------------------------------------------------------------------------


def test_pictures_of_results_open_without_a_login(client: Client, acme: Company) -> None:
    page = unescape(search(client, "acme").content.decode())
    for kind in ("", "/thumbnail"):
        address = re.search(rf'"(/api/pictures/acme/[0-9a-f-]+{kind}\?[^"]+)"', page)
        assert address
        assert Client().get(address[1]).status_code == 200


def test_picture_that_is_chosen_is_searched_with_from_its_address(client: Client, acme: Company) -> None:
    red = ids(search(client, "acme"))[0]
    response = client.get(f"{page_of('acme')}?like={red}&top=1")
    assert names(response) == ["wine"]  # without the picture itself
    assert "The picture that is searched with: red" in response.content.decode()


def test_part_of_a_picture_is_searched_with(client: Client, acme: Company) -> None:
    page = search(client, "acme", image=halves(BLUE, RED), crop="0, 0, 0.5, 1")
    assert names(page)[0] == "blue"
    assert command_of(page)[3:7] == ["--form-string", "crop=0,0,0.5,1", "--form-string", "top_k=20"]
    assert 'value="0,0,0.5,1"' in page.content.decode()  # for who has no script
    assert names(search(client, "acme", image=halves(BLUE, RED), crop="0.5,0,0.5,1"))[0] == "red"


def test_part_of_a_picture_of_the_company_is_searched_with_from_its_address(client: Client, acme: Company) -> None:
    (acme.image_directory / "halves.png").write_bytes(halves(BLUE, RED).getvalue())
    rebuild(acme)
    chosen = re.search(r'href="\?like=([^"]+)"[^>]*>\s*<img[^>]*halves', search(client, "acme").content.decode())
    assert chosen
    page = client.get(f"{page_of('acme')}?like={chosen[1]}&crop=0,0,0.5,1&top=1")
    assert names(page) == ["blue"]
    assert command_of(page)[1] == f"http://testserver/api/search/acme/{chosen[1]}?crop=0,0,0.5,1&top_k=1"
    assert "crop" not in re.search(r'class="thumb" href="([^"]*)"', page.content.decode())[1]  # type: ignore[index]


def test_several_pictures_are_searched_with_together(client: Client, acme: Company) -> None:
    form = {"image": [picture(BLUE, "sea.png"), picture(BLUE, "sky.png"), picture(RED, "fire.png")]}
    page = client.post(page_of("acme"), form)
    assert names(page) == ["blue", "wine", "red"]
    assert command_of(page)[1:7:2] == ["-F"] * 3
    assert command_of(page)[2:8:2] == ['image=@"sea.png"', 'image=@"sky.png"', 'image=@"fire.png"']
    assert "Less like these" not in page.content.decode()  # than a picture that is not the company's


def test_ticked_results_are_searched_with_under_an_address_of_their_own(client: Client, acme: Company) -> None:
    red, _, blue = ids(search(client, "acme"))
    form = {"like": red, "folder": "", "top": "20", "tick": [blue], "ticked": "like"}
    moved = client.get(page_of("acme"), form)
    assert (moved.status_code, moved["Location"]) == (302, f"{page_of('acme')}?like={red}&like={blue}")
    page = client.get(moved["Location"])
    assert names(page) == ["wine"]
    assert command_of(page)[1] == f"http://testserver/api/search/acme?like={red}&like={blue}&top_k=20"
    less = client.get(page_of("acme"), form | {"ticked": "unlike"})["Location"]
    assert less == f"{page_of('acme')}?like={red}&unlike={blue}"
    page = client.get(less)
    assert names(page) == ["wine"]
    assert re.findall(r'class="remove" href="([^"]*)"', page.content.decode()) == [
        f"?like={red}"
    ]  # the last like stays
    assert DailySearches.objects.get().searches == 3  # a redirect is no search


def test_one_of_several_pictures_that_is_gone_can_be_left_out(client: Client, acme: Company) -> None:
    red, _, blue = ids(search(client, "acme"))
    (acme.image_directory / "blue.png").unlink()
    rebuild(acme)
    page = client.get(f"{page_of('acme')}?like={red}&like={blue}")
    assert page.status_code == 404
    assert f'href="?like={red}" data-remove="{blue}"' in page.content.decode()


def test_picture_of_another_company_is_not_found(client: Client, acme: Company, make_company: MakeCompany) -> None:
    Company.objects.filter(pk=make_company("globex", {"green.png": GREEN}).pk).update(public_page=True)
    green = ids(search(client, "globex"))[0]
    response = client.get(f"{page_of('acme')}?like={green}")
    assert response.status_code == 404
    assert "green" not in response.content.decode()


def test_folder_score_and_number_limit_the_results(client: Client, acme: Company) -> None:
    assert names(search(client, "acme", folder="Warm")) == ["red", "wine"]
    assert names(search(client, "acme", folder="/Warm/Dark/")) == ["wine"]
    assert names(search(client, "acme", min_score="0.5")) == ["red", "wine"]
    assert names(search(client, "acme", top="1")) == ["red"]
    assert names(search(client, "acme", top="5000")) == ["red", "wine", "blue"]


def test_results_tell_how_well_they_match(client: Client, many: Company) -> None:
    page = search(client, "acme", (250, 15, 10))
    answer = APIClient().post("/api/search/acme", {"image": picture((250, 15, 10)), "top_k": 20}).json()
    expected = [each["match"] for each in answer["results"]]
    assert max(expected) > 95 > 0.5 > min(expected)
    words = re.findall(r">([^<>]*) match</strong>", page.content.decode())
    assert words == [f"{each:.0f} %" if each >= 0.5 else "under 1 %" for each in expected]
    assert bars(page) == [round(each) for each in expected]
    scores = re.findall(r">score ([^<]*)<", page.content.decode())
    assert scores == [f"{each['score']:.2f}" for each in answer["results"]]
    assert "What does match mean?" in text(page.content.decode())


def test_bar_is_as_long_as_the_score_where_there_is_no_match(client: Client, many: Company) -> None:
    page = client.get(f"{page_of('acme')}?like={ids(search(client, 'acme'))[0]}")
    assert bars(page) == [round(100 * float(score)) for score in scores_of(page)]
    assert "match</strong>" not in page.content.decode()
    assert "What does match mean?" not in text(page.content.decode())


def test_minimum_match_limits_the_results_that_have_one(client: Client, many: Company) -> None:
    page = search(client, "acme", (250, 15, 10), min_match="95")
    assert names(page) == ["red"]
    assert "min_match=95" in command_of(page)
    ignored = client.get(f"{page_of('acme')}?like={ids(page)[0]}&min_match=95")
    assert len(names(ignored)) == 7
    assert "The minimum match does not count in this search" in text(ignored.content.decode())
    nothing = search(client, "acme", BLUE, min_match="99")
    assert "Lower the minimum match of 99 %." in text(nothing.content.decode())


def test_duplicates_are_left_out_and_the_results_stay_as_many(client: Client, acme: Company) -> None:
    for name in ("flag.png", "copy.png"):  # of one colour they would be blank, and no duplicates
        acme.refresh_from_db()
        put_image(acme, name, halves(RED, GREEN).getvalue(), by=on_command_line())
    flag = {"image": halves(RED, GREEN), "top": "2"}
    assert set(names(search(client, "acme", **flag))) == {"flag", "copy"}
    flag["image"].seek(0)
    page = search(client, "acme", **flag, collapse="duplicates")
    assert len({"flag", "copy"} & set(names(page))) == 1
    assert len(set(names(page)) - {"flag", "copy"}) == 1
    assert 'value="duplicates" checked' in page.content.decode()


@pytest.mark.slow
def test_nothing_similar_is_said_above_the_nearest_pictures(client: Client, make_company: MakeCompany) -> None:
    greens = {f"{number:03}.png": (10 * (number % 10), 255, 20 * (number // 10)) for number in range(100)}
    Company.objects.filter(pk=make_company("acme", greens).pk).update(public_page=True)
    page = search(client, "acme", top="3")
    assert len(names(page)) == 3
    assert "Nothing similar found. As far as can be told, acme has nothing like this." in text(page.content.decode())
    assert "Nothing similar found; the nearest 3 pictures follow." in text(page.content.decode())
    assert "Nothing similar" not in search(client, "acme", (50, 255, 60)).content.decode()


def bars(response: HttpResponse) -> list[int]:
    """Return how long the bars of the results are, in percent."""
    return [int(width) for width in re.findall(r'<rect width="(\d+)"', response.content.decode())]


def scores_of(response: HttpResponse) -> list[str]:
    return re.findall(r"Score </span>([^<]*)<", response.content.decode())


def test_folders_of_the_company_are_listed(client: Client, acme: Company) -> None:
    options = re.findall(r"<option value=[^>]*>([^<]*)<", client.get(page_of("acme")).content.decode())
    assert options == ["All folders", "Warm (2)", "Warm/Dark (1)"]


def test_page_begins_with_some_of_the_pictures(client: Client, acme: Company) -> None:
    assert set(names(client.get(page_of("acme")))) == {"red", "wine", "blue"}


def test_script_gets_the_parts_that_change(client: Client, acme: Company) -> None:
    headers = {"Accept": "application/json"}
    answer = client.post(page_of("acme"), {"image": picture(RED)}, headers=headers)
    assert answer.json()["said"] == "3 pictures found."
    assert "wine" in answer.json()["results"]
    assert "no-store" in answer["Cache-Control"]  # or going back would show this in place of the page
    refused = client.post(page_of("acme"), {}, headers=headers)
    assert (refused.status_code, refused.json()["said"]) == (400, "Choose a picture first.")


def test_names_of_pictures_are_text(client: Client, make_company: MakeCompany) -> None:
    company = make_company("acme", {"<b>/<script>alert(1)<.png": RED})
    Company.objects.filter(pk=company.pk).update(public_page=True)
    page = search(client, "acme").content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page


def test_names_that_are_no_utf8_break_no_page(client: Client, db: None) -> None:
    company = Company.objects.create(name="flask", public_page=True)
    [strange, _] = flask_directory(company.embeddings_directory, some_vectors(2), ["\udcff/a\udcfe.png", "good.png"])
    for page in (page_of("flask"), f"{page_of('flask')}?like={strange}", f"{page_of('flask')}?folder=%ff"):
        assert client.get(page).status_code == 200
    assert "a\\udcfe" in client.get(page_of("flask")).content.decode()


def test_command_is_what_a_shell_reads(client: Client, acme: Company) -> None:
    Company.objects.update(requires_api_key=True)
    file = picture(RED, "it's; a $(date).png")
    page = client.post(page_of("acme"), {"image": file, "folder": "@it's", "top": "5"})
    assert command_of(page) == [
        "curl",
        "-H",
        "X-API-Key: YOUR-KEY",
        "-F",
        'image=@"it\'s; a $(date).png"',
        "--form-string",
        "location=@it's",
        "--form-string",
        "top_k=5",
        "http://testserver/api/search/acme",
    ]


@pytest.mark.parametrize(("is_required", "has_key"), [("off", False), ("required", True)])
def test_command_names_a_key_where_one_is_needed(
    client: Client, acme: Company, settings: Any, is_required: str, has_key: bool
) -> None:
    settings.API_KEYS = is_required
    assert ("YOUR-KEY" in search(client, "acme").content.decode()) == has_key


def test_script_is_told_of_errors_in_plain_text(client: Client, acme: Company) -> None:
    form = {"image": SimpleUploadedFile("a.png", b"no picture")}
    response = client.post(page_of("acme"), form, headers={"Accept": "application/json"})
    assert "can't" in response.json()["said"]


def test_command_of_a_picture_of_the_company_finds_the_same(client: Client, acme: Company) -> None:
    red = ids(search(client, "acme"))[0]
    response = client.get(f"{page_of('acme')}?like={red}&folder=Warm&collapse=duplicates")
    address = command_of(response)[-1]
    assert "collapse=duplicates" in address
    found = APIClient().get(address.removeprefix("http://testserver")).json()["results"]
    assert [result["name"] for result in found] == names(response)


# What it refuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({}, 400, "Choose a picture first."),
        ({"image": picture(RED, "notes.txt")}, 400, "This type of file can't be searched with"),
        ({"image": picture(RED, "picture.gif")}, 400, "can't be read as a picture"),
        ({"image": picture(RED), "min_score": "2"}, 400, "must be a number from -1 to 1"),
        ({"image": picture(RED), "min_score": "nan"}, 400, "must be a number from -1 to 1"),
        ({"image": picture(RED), "min_match": "101"}, 400, "must be a number from 0 to 100"),
        ({"image": picture(RED), "top": "0"}, 400, "must be at least 1"),
        ({"image": picture(RED), "crop": "0.5,0,0.6,1"}, 400, "four numbers from 0 to 1"),
        ({"image": picture(RED), "crop": "0,0,0.5,1"}, 400, "too small to search with"),
        ({"image": picture(RED), "folder": "Nowhere"}, 200, "Search all folders instead."),
        ({"image": picture(GREEN), "min_score": "0.9"}, 200, "Lower the minimum score of 0.9."),
        ({"image": [picture(RED) for _ in range(6)]}, 400, "At most 5 pictures"),
        ({"image": [picture(RED), picture(BLUE)], "crop": "0,0,0.5,1"}, 400, "Only of one picture"),
        ({"like": [str(number) for number in range(21)]}, 400, "At most 20 pictures"),
        ({"unlike": "nonsense"}, 400, "Choose a picture first."),
        ({"like": "nonsense"}, 404, "This picture is no longer there."),
    ],
)
def test_page_says_what_to_do(client: Client, acme: Company, fields: Any, status: int, words: str) -> None:
    if images := fields.get("image"):
        for image in images if isinstance(images, list) else [images]:
            image.seek(0)
    response = client.post(page_of("acme"), fields)
    assert response.status_code == status
    assert words in text(response.content.decode())


def test_picture_over_16_mb_is_refused_as_by_the_api(client: Client, acme: Company, settings: Any) -> None:
    file = BytesIO(bytes(settings.MAX_UPLOAD_BYTES + 1))
    file.name = "large.png"
    for address, words in ((page_of("acme"), "larger than 16 MB"), ("/api/search/acme", "at most 16 MB")):
        file.seek(0)
        response = client.post(address, {"image": file})
        assert response.status_code == 413
        assert words in response.content.decode()


def test_form_has_the_bounds_of_the_api(client: Client, acme: Company) -> None:
    response = search(client, "acme", folder="x" * 70_000)
    assert response.status_code == 413


def test_rate_of_an_address_counts(client: Client, acme: Company, settings: Any) -> None:
    settings.RATE_PER_ADDRESS = (2, 86400)
    assert search(client, "acme").status_code == 200
    client.get("/api/companies")  # the API's requests are counted together with the page's
    refused = search(client, "acme")
    assert refused.status_code == 429
    assert int(refused["Retry-After"]) > 0
    words = text(refused.content.decode())
    assert re.search(r"too many searches in a short time. Try again in \d+ (hours|minutes|seconds)\.", words)


def test_what_the_quota_leaves_is_told_as_by_the_api(client: Client, acme: Company) -> None:
    assert "X-Quota-Remaining" not in search(client, "acme")
    Company.objects.update(daily_quota=2)
    assert "X-Quota-Remaining" not in client.get(page_of("acme"))
    assert [search(client, "acme")["X-Quota-Remaining"] for _ in range(3)] == ["1", "0", "0"]


def test_quota_of_the_company_counts(client: Client, acme: Company) -> None:
    Company.objects.update(daily_quota=1)
    assert search(client, "acme").status_code == 200
    refused = search(client, "acme")
    assert refused.status_code == 429
    assert "searches of this company are used up. Try again in" in text(refused.content.decode())


def test_searches_are_counted_as_the_pages(client: Client, acme: Company) -> None:
    client.get(page_of("acme"))
    search(client, "acme")
    search(client, "acme", min_score="3")
    [row] = DailySearches.objects.all()
    assert (row.channel, row.searches, row.refused) == ("page", 1, 1)


def test_company_without_pictures_tells_staff_how_to_get_some(client: Client, colleague: Colleague, db: None) -> None:
    company = Company.objects.create(name="acme", public_page=True)
    admin_page = reverse("admin:tenants_company_change", args=[company.pk])
    staff = colleague("view_company").get(page_of("acme")).content.decode()
    stranger = client.get(page_of("acme")).content.decode()
    assert admin_page in staff
    assert admin_page not in stranger
    assert "There are no pictures to search yet." in text(stranger)
    assert search(client, "acme").status_code == 503


def test_damaged_index_is_not_taken_for_one_without_pictures(
    client: Client, colleague: Colleague, acme: Company
) -> None:
    (acme.embeddings_directory / "faiss_index.bin").write_bytes(b"no index")
    page = client.get(page_of("acme"))
    assert page.status_code == 503
    assert "Searching does not work at the moment." in text(page.content.decode())
    assert "no pictures" not in text(page.content.decode())
    assert "faiss_index.bin" not in page.content.decode()
    assert "faiss_index.bin" in colleague("view_company").get(page_of("acme")).content.decode()


def test_page_is_no_part_of_the_apis_schema(client: Client, db: None) -> None:
    paths = client.get("/api/schema", headers={"Accept": "application/json"}).json()["paths"]
    assert all(path.startswith("/api/") for path in paths)
