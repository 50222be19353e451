"""Forms as attackers and as ordinary clients send them."""

import base64
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client

from tenants.models import Company
from tests.conftest import picture
from tests.support.fakes import GREEN, RED

PNG = picture(RED).getvalue()
MakeCompany = Callable[..., Company]


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"red.png": RED, "green.png": GREEN})


def form(*parts: tuple[bytes, bytes], eol: bytes = b"\r\n", tail: bytes = b"") -> bytes:
    """Return a form; parts: head and content."""
    body = b"".join(b"--XX" + eol + head + eol + eol + content + eol for head, content in parts)
    return body + b"--XX--" + eol + tail


def part(disposition: bytes, content: bytes = PNG, *more: bytes) -> tuple[bytes, bytes]:
    return b"\r\n".join([b"Content-Disposition: form-data; " + disposition, *more]), content


def post(client: Client, body: bytes, path: str = "/api/search/acme", **options: Any) -> Any:
    options = {"content_type": "multipart/form-data; boundary=XX", **options}
    return client.generic("POST", path, body, **options)


def best(response: Any) -> str:
    assert response.status_code == 200, response.content
    return str(response.json()["results"][0]["fullPath"])


# Parts without end

NAMELESS = {
    "without a name": part(b"filename=a", b""),
    "with a name": part(b"name=a", b""),
    "with a long head": part(b"filename=" + b"b" * 900, b""),
    "without a head": (b"", b""),
}


@pytest.mark.parametrize("kind", NAMELESS)
@pytest.mark.parametrize("path", ["/api/search/acme", "/api/reindex/acme", "/admin/login/", "/admin/tenants/company/"])
def test_a_form_of_many_parts_is_refused_as_soon_as_they_are_counted(acme: Company, path: str, kind: str) -> None:
    client = Client(enforce_csrf_checks=True)
    _, key = acme.issue_key("shop", can_write=True)
    client.cookies["csrftoken"] = "a" * 32
    body = form(*[NAMELESS[kind]] * 60_000)
    began = time.process_time()
    response = post(client, body, path, headers={"X-API-Key": key})
    assert response.status_code in (400, 413)
    assert time.process_time() - began < 0.5  # Django alone takes 4 s for 4 MB


def test_a_hundred_parts_are_accepted_and_one_more_is_not(client: Client, acme: Company) -> None:
    parts = [part(b'name="image"; filename="a.png"'), *[part(b"filename=a", b"")] * 99]
    assert best(post(client, form(*parts))) == "red.png"
    response = post(client, form(*parts, part(b"filename=a", b"")))
    assert response.status_code == 400
    assert response.json()["code"] == "too_many_parts"


def test_a_boundary_that_lies_across_two_reads_is_counted(client: Client, acme: Company) -> None:
    boundary = "X" * 70
    body = (b"--" + boundary.encode() + b"\r\nContent-Disposition: form-data; filename=a\r\n\r\n\r\n") * 2000
    response = post(client, body, content_type=f"multipart/form-data; boundary={boundary}")
    assert response.json()["code"] == "too_many_parts"


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=XX", "application/x-www-form-urlencoded"])
def test_the_login_reads_no_more_than_its_form(client: Client, db: None, kind: str) -> None:
    body = form(part(b'name="username"', b"a" * 70_000)) if "XX" in kind else b"username=" + b"a" * 70_000
    response = post(client, body, "/admin/login/", content_type=kind)
    assert response.status_code == 413
    assert "65,536" in response.content.decode()


# Clients of all kinds

LONG = "写真" * 41 + ".png"
DOTNET = (b'name=image; filename="=?utf-8?B?' + base64.b64encode(LONG.encode()) + b"?=\"; filename*=utf-8''") + quote(
    LONG
).encode()

DISPOSITIONS = {
    "Latin-1": 'name="image"; filename="café.png"'.encode("latin-1"),
    "Shift-JIS": 'name="image"; filename="表示.png"'.encode("shift-jis"),
    "GBK": 'name="image"; filename="图片.png"'.encode("gbk"),
    "UTF-8": 'name="image"; filename="фото.png"'.encode(),
    "as .NET sends it": DOTNET,
    "an encoded word": b'name="image"; filename="=?utf-8?B?' + base64.b64encode("фото.png".encode()) + b'?="',
    "a charset of its own": b"name=image; filename*=iso-8859-1'en'caf%E9.png",
    "an unknown charset": b"name=image; filename*=nonsense''caf%E9.png",
    "quotes in it": rb'name="image"; filename="a \"b\"; c.png"',
    "a path of Windows": rb'name="image"; filename="C:\photos\a.png"',
    "names in capitals": b'NAME="image"; FILENAME="a.png"',
    "the tail of a URL": b'name="image"; filename="photo.png?width=300"',
    "a blob of a script": b'name="image"; filename="blob"',
    "no name": b'name="image"',
    "an empty name": b'name="image"; filename=""',
}


@pytest.mark.parametrize("name", DISPOSITIONS)
def test_a_picture_is_searched_with_whatever_its_name_looks_like(client: Client, acme: Company, name: str) -> None:
    assert best(post(client, form(part(DISPOSITIONS[name])))) == "red.png"


@pytest.mark.parametrize("name", ["Latin-1", "as .NET sends it", "no name"])
def test_a_picture_is_put_whatever_its_name_in_the_form_looks_like(client: Client, acme: Company, name: str) -> None:
    _, key = acme.issue_key("shop", can_write=True)
    kind = "multipart/form-data; boundary=XX"
    response = client.generic(
        "PUT", "/api/images/acme/n.png", form(part(DISPOSITIONS[name])), content_type=kind, headers={"X-API-Key": key}
    )
    assert response.status_code == 201, response.content


@pytest.mark.parametrize("name", ["photo", "photo.svg", "photo.svg?a.b"])
def test_other_types_are_refused_by_their_names_as_ever(client: Client, acme: Company, name: str) -> None:
    response = post(client, form(part(f'name="image"; filename="{name}"'.encode())))
    assert response.status_code == 400
    assert response.json()["code"] == "file_type_not_allowed"


def test_text_in_the_place_of_the_picture_is_told_apart_from_a_picture_without_a_name(
    client: Client, acme: Company
) -> None:
    for content in (b"hello", b"", b"@photo.jpg"):
        response = post(client, form(part(b'name="image"', content)))
        assert response.status_code == 400
        assert response.json()["error"] == "No image: send the picture as a multipart field named image"
        assert response.json()["code"] == "image_missing"


def test_a_large_picture_without_a_name_is_read(client: Client, acme: Company) -> None:
    assert best(post(client, form(part(b'name="image"', PNG + bytes(3_000_000))))) == "red.png"


def test_fields_are_small(client: Client, acme: Company) -> None:
    response = post(client, form(part(b'name="image"; filename="a.png"'), part(b'name="location"', b"a" * 70_000)))
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("length", [7_000, 9_000])
def test_heads_of_parts_may_be_long_but_not_endless(client: Client, acme: Company, length: int) -> None:
    head = part(b'name="image"; filename="a.png"', PNG, b"X-Note: " + b"a" * length)
    assert post(client, form(head)).status_code == (200 if length < 8_000 else 400)


@pytest.mark.parametrize("kind", ["Multipart/Form-Data; Boundary=XX", 'MULTIPART/FORM-DATA;BOUNDARY="XX"'])
def test_media_types_are_read_in_any_case(client: Client, acme: Company, kind: str) -> None:
    body = form(part(b'name="image"; filename="a.png"'))
    assert best(post(client, body, content_type=kind)) == "red.png"


def test_text_before_the_first_and_after_the_last_boundary_is_ignored(client: Client, acme: Company) -> None:
    body = b"a preamble\r\n" + form(part(b'name="image"; filename="a.png"'), tail=b"x" * 20_000)
    assert best(post(client, body)) == "red.png"


def test_lines_may_end_as_on_unix(client: Client, acme: Company) -> None:
    assert best(post(client, form(part(b'name="image"; filename="a.png"'), eol=b"\n"))) == "red.png"


def test_a_picture_in_base64_that_says_so_is_decoded(client: Client, acme: Company) -> None:
    encoded = base64.encodebytes(PNG)
    head = part(b'name="image"; filename="a.png"', encoded, b"Content-Transfer-Encoding: BASE64")
    assert best(post(client, form(head))) == "red.png"


def test_a_picture_keeps_every_byte(client: Client, acme: Company) -> None:
    """Also line ends at its end, and what looks like a boundary in the middle of a line."""
    _, key = acme.issue_key("shop", can_write=True)
    content = PNG + b"\r\n\r\n--X\r\n a--XX\r\n\n"
    client.generic(
        "PUT",
        "/api/images/acme/n.png",
        form(part(b'name="image"; filename="a.png"', content)),
        content_type="multipart/form-data; boundary=XX",
        headers={"X-API-Key": key},
    )
    assert (acme.image_directory / "n.png").read_bytes() == content


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"no form", "multipart/form-data; boundary=XX"),
        (form(part(b'name="image"; filename="a.png"')), "multipart/form-data"),
        (
            form(part(b'name="image"; filename="a.png"', b"AAA", b"Content-Transfer-Encoding: base64")),
            "multipart/form-data; boundary=XX",
        ),
    ],
)
def test_what_is_no_form_is_refused_in_words(client: Client, acme: Company, body: bytes, kind: str) -> None:
    response = post(client, body, content_type=kind)
    assert (response.status_code, response.json()["code"]) == (400, "body_malformed")


@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/xml;q=0.9", "nonsense", ""])
def test_whatever_a_client_accepts_it_gets_json(client: Client, acme: Company, accept: str) -> None:
    body = form(part(b'name="image"; filename="a.png"'))
    assert best(post(client, body, headers={"Accept": accept})) == "red.png"
    assert client.get("/api/stats/nobody", headers={"Accept": accept}).status_code == 400


@pytest.mark.parametrize("format", ["html", "json", "xml", ""])
def test_a_format_in_the_query_string_changes_nothing(client: Client, acme: Company, format: str) -> None:
    response = client.get(f"/api/stats/acme?format={format}")
    assert (response.status_code, response["Content-Type"]) == (200, "application/json")
