"""What strangers may send, through the front door: whatever it is, a clear answer in the API's shape, never a 500."""

import json
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from PIL import Image

from search.engine.pictures import decode as images
from search.engine.pictures.paths import ALLOWED_EXTENSIONS
from tenants.models import Company
from tests.support.encodings import BOMBS, SAMPLES
from tests.support.fakes import BLUE, GREEN, RED

# pytest replaces the filters that images.py sets.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\..*")

MakeCompany = Callable[..., Company]

PATHS = {"Warm/red.png", "blue.png", "green.jpg"}

fuzzed = hypothesis.settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"Warm/red.png": RED, "blue.png": BLUE, "green.jpg": GREEN})


@pytest.fixture(autouse=True)
def _nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary files, if any were made, are gone afterwards."""
    own = tmp_path / "temporary"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    yield
    assert list(own.iterdir()) == []


def search(client: Client, content: bytes, name: str = "query.png", company: str = "acme", **form: Any) -> Any:
    return client.post(f"/api/search/{company}", {"image": SimpleUploadedFile(name, content), **form})


def require_answer(response: Any, *, among: tuple[int, ...] = (200, 400)) -> None:
    """Fail unless the answer is a result with the company's own pictures, or a refusal in the shape of the API."""
    assert isinstance(response, HttpResponse)
    assert response.status_code in among
    body = json.loads(response.content)
    if response.status_code == 200:
        assert {entry["fullPath"] for entry in body["results"]} <= PATHS
    else:
        assert body["success"] is False
        assert body["error"]
        assert "Traceback" not in body["error"]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A real file of some format after a few of the things that networks, disks and people do to files."""
    name = draw(st.sampled_from(sorted(SAMPLES)))
    data = bytearray(SAMPLES[name])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        what = draw(st.sampled_from(["flip", "cut", "insert", "repeat", "drop", "splice", "number"]))
        if what == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del data[place:]
        elif what == "insert":
            data[place:place] = draw(st.binary(max_size=40))
        elif what == "repeat":
            data[place:place] = data[place : place + draw(st.integers(1, 400))]
        elif what == "drop":
            del data[place : place + draw(st.integers(1, 40))]
        elif what == "splice":
            other = SAMPLES[draw(st.sampled_from(sorted(SAMPLES)))]
            data[place:] = other[draw(st.integers(0, len(other) - 1)) :]
        else:  # lengths, offsets and counts are where readers trust
            number = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
            data[place : place + 4] = number.to_bytes(4, draw(st.sampled_from(["little", "big"])))
    return name, bytes(data)


@pytest.mark.fuzz
@fuzzed
@given(damaged())
def test_damaged_pictures_are_searched_with_or_refused(client: Client, acme: Company, picture: Any) -> None:
    name, data = picture
    require_answer(search(client, data, name))


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_bombs_are_refused(
    client: Client, acme: Company, settings: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings.MAX_PIXELS = 1_000_000
    monkeypatch.setattr(images, "MAX_READS", 50_000)  # a tenth, so that the endless ones end in a tenth of their time
    require_answer(search(client, BOMBS[name], name), among=(400,))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_pictures_that_are_something_else_too_are_no_more_than_pictures(
    client: Client, acme: Company, name: str
) -> None:
    """A picture with a program, an archive or a page behind or within it; under its own name and that of others."""
    for tail in (b"<?php system($_GET[0]); ?>", b"PK\3\4" + bytes(60), b"<script>alert(1)</script>", b"%PDF-1.7\n"):
        require_answer(search(client, SAMPLES[name] + tail, name))
        require_answer(search(client, tail + SAMPLES[name], name), among=(400,))
    own = {"jpeg": "jpg", "tif": "tiff"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
    for extension in ALLOWED_EXTENSIONS:
        if {"jpeg": "jpg", "tif": "tiff"}.get(extension, extension) != own:
            require_answer(search(client, SAMPLES[name], f"picture.{extension}"), among=(400,))
    for extension in ("php", "svg", "html", "py", "pdf", "avif", "psd", "eps", ""):
        require_answer(search(client, SAMPLES[name], f"picture.{extension}"), among=(400,))


texts = st.text(max_size=60) | st.sampled_from(
    [
        "../acme",
        "..%2facme",
        "acme/../globex",
        "acme\0",
        "a" * 5000,
        "ACME",
        "acme ",
        "%00",
        "\\..\\acme",
        "\uff41cme",
        "'--",
    ]
)


@pytest.mark.fuzz
@fuzzed
@given(name=texts)
def test_file_names_are_never_paths(client: Client, acme: Company, name: str) -> None:
    before = {path for root in (acme.image_directory, acme.embeddings_directory) for path in root.rglob("*")}
    boundary = "limit"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}.png"\r\n\r\n'
    body = head.encode("utf-8", "surrogatepass") + SAMPLES["rgba.png"] + f"\r\n--{boundary}--\r\n".encode()
    answer = client.post("/api/search/acme", body, content_type=f"multipart/form-data; boundary={boundary}")
    require_answer(answer)
    assert before == {path for root in (acme.image_directory, acme.embeddings_directory) for path in root.rglob("*")}


@pytest.mark.fuzz
@fuzzed
@given(company=texts.filter(lambda text: text.strip("/") not in {"", "acme"}))
def test_names_of_companies_open_nothing_else(client: Client, acme: Company, company: str) -> None:
    for url in (f"/api/search/{_quoted(company)}", f"/api/stats/{_quoted(company)}", f"/api/images/{_quoted(company)}"):
        answer = client.post(url) if "search" in url else client.get(url)
        require_answer(answer, among=(400, 401, 403, 404, 405))


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@pytest.mark.fuzz
@fuzzed
@given(top_k=texts | st.integers().map(str) | st.floats().map(str), min_score=texts | st.floats().map(str))
def test_numbers_of_a_form_are_numbers_or_refused(client: Client, acme: Company, top_k: str, min_score: str) -> None:
    require_answer(search(client, SAMPLES["rgba.png"], top_k=top_k))
    require_answer(search(client, SAMPLES["rgba.png"], min_score=min_score))


@pytest.mark.fuzz
@fuzzed
@given(location=texts)
def test_locations_never_leave_the_company(client: Client, acme: Company, location: str) -> None:
    require_answer(search(client, SAMPLES["rgba.png"], location=location))
    answer = client.get("/api/search/acme/00000000-0000-5000-8000-000000000000", {"location": location})
    require_answer(answer, among=(400, 404))


@pytest.mark.fuzz
@fuzzed
@given(
    header=st.sampled_from(
        ["Authorization", "X-API-Key", "X-Request-ID", "X-Forwarded-For", "Origin", "Cookie", "Accept", "Content-Type"]
    ),
    value=st.text(st.characters(max_codepoint=255), max_size=200) | st.sampled_from(["Basic", "Api-Key", "a" * 8000]),
)
def test_headers_are_read_or_refused(client: Client, acme: Company, header: str, value: str) -> None:
    body = BytesIO()
    Image.new("RGB", (8, 8)).save(body, "PNG")
    answer = client.post(
        "/api/search/acme", {"image": SimpleUploadedFile("a.png", body.getvalue())}, headers={header: value}
    )
    require_answer(answer, among=(200, 400, 401, 406, 415, 429))  # 429: after many wrong keys


@pytest.mark.fuzz
@fuzzed
@given(
    body=st.binary(max_size=300), kind=st.sampled_from(["multipart/form-data; boundary=x", "multipart/form-data", "x"])
)
def test_any_body_is_a_form_or_refused(client: Client, acme: Company, body: bytes, kind: str) -> None:
    for content in (body, b"--x\r\n" + body, b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + body):
        require_answer(client.post("/api/search/acme", content, content_type=kind), among=(400, 415))


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[" * 30_000, "application/json", 400),
        (b'{"full":' * 7_000, "application/json", 400),
        (b'{"full": false' + b" " * 70_000 + b"}", "application/json", 413),
        (b"full=" + b"0" * 70_000, FORM, 413),
        (b"&".join([b"a"] * 2_000), FORM, 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n' + bytes(70_000),
            "multipart/form-data; boundary=x",
            413,
        ),
    ],
)
def test_options_of_a_build_are_few_and_flat(
    client: Client, acme: Company, body: bytes, kind: str, status: int
) -> None:
    _, key = acme.issue_key("shop", can_write=True)
    answer = client.post("/api/reindex/acme", body, content_type=kind, headers={"X-API-Key": key})
    require_answer(answer, among=(status,))
    assert not acme.builds.active().exists()
