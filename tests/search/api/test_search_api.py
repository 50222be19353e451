import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any
from uuid import uuid4

import faiss
import numpy as np
import pytest
from django.conf import settings as django_settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client
from PIL import Image

from search import runtime
from search.engine.pictures.gates import ORDINARY_PIXELS
from tenants.models import Company
from tests.conftest import picture
from tests.support.encodings import encoded
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.waiting import eventually

MakeCompany = Callable[..., Company]


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company(
        "acme",
        {"Warm/Red one.png": RED, "Warm/orange.png": (255, 128, 0), "blue.png": BLUE, "green.jpg": GREEN},
    )


def search(client: Client, company: str, **form: Any) -> Any:
    return client.post(f"/api/search/{company}", form or {"image": picture(RED)})


def test_search_returns_the_closest_pictures_best_first(client: Client, acme: Company) -> None:
    body = search(client, "acme").json()
    assert [entry["fullPath"] for entry in body["results"]][:2] == ["Warm/Red one.png", "Warm/orange.png"]
    scores = [entry["score"] for entry in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1.0, abs=1e-6)


def test_white_logos_on_transparency_are_told_apart(client: Client, make_company: MakeCompany) -> None:
    make_company("acme", {"red.png": RED})
    logos = {f"logo {side}.png": white_square(side) for side in (10, 30, 50)}
    for name, data in logos.items():
        (Company.objects.get().image_directory / name).write_bytes(data)
    call_command("build_embeddings", company="acme")
    for name, data in logos.items():
        first, second, *_ = search(client, "acme", image=SimpleUploadedFile(name, data)).json()["results"]
        assert (first["fullPath"], first["score"]) == (name, 1)
        assert second["score"] < 0.9999


def white_square(side: int) -> bytes:
    logo = Image.new("RGBA", (60, 60), (255, 255, 255, 0))
    logo.paste("white", (0, 0, side, side))
    return encoded(logo, "PNG")


def test_search_body_keeps_the_contract(client: Client, acme: Company) -> None:
    body = search(client, "acme").json()
    assert set(body) >= {"success", "company", "results", "total_results", "query_processed", "timestamp"}
    assert (body["success"], body["company"], body["query_processed"]) == (True, "acme", True)
    assert body["total_results"] == len(body["results"]) == 4
    first = body["results"][0]
    assert {key: first[key] for key in ("location", "name", "type")} == {
        "location": "Warm",
        "name": "Red one",
        "type": "file",
    }
    assert body["timestamp"].endswith("Z")


def test_scores_are_those_of_faiss_on_the_published_file(client: Client, acme: Company, embedder: FakeEmbedder) -> None:
    flat = faiss.read_index(str(acme.embeddings_directory / "faiss_index.bin"))
    metadata = json.loads((acme.embeddings_directory / "metadata.json").read_text())
    query = embedder.embed([np.float32([1, 0, 0])])
    scores, rows = flat.search(query, 4)
    results = search(client, "acme").json()["results"]
    assert [entry["id"] for entry in results] == [metadata[row]["id"] for row in rows[0]]
    np.testing.assert_allclose([entry["score"] for entry in results], scores[0], atol=1e-6)


@pytest.mark.parametrize(("top_k", "expected"), [("1", 1), ("3", 3), ("51", 50), ("1000000", 50)])
def test_top_k_is_held_to_fifty(client: Client, make_company: MakeCompany, top_k: str, expected: int) -> None:
    make_company("acme", {f"{n}.png": (n, 0, 0) for n in range(60)})
    assert search(client, "acme", image=picture(RED), top_k=top_k).json()["total_results"] == expected


def test_ten_results_are_the_default(client: Client, make_company: MakeCompany) -> None:
    make_company("acme", {f"{n}.png": (n, 0, 0) for n in range(60)})
    assert search(client, "acme").json()["total_results"] == 10


@pytest.mark.parametrize("top_k", ["0", "-3", "ten", "1.5", "", "9" * 5000])
def test_top_k_that_is_no_whole_number_from_one_is_a_400(client: Client, acme: Company, top_k: str) -> None:
    response = search(client, "acme", image=picture(RED), top_k=top_k)
    assert response.status_code == 400
    assert response.json() == {
        "success": False,
        "error": "top_k must be a whole number of at least 1",
        "code": "top_k_invalid",
    }


@pytest.mark.parametrize("name", ["nobody", "../etc", "ACME", "a" * 5000, "acme/extra", "%00", ".", "\u00e9\U0001f600"])
def test_unknown_company_is_a_400(client: Client, acme: Company, name: str) -> None:
    response = search(client, name)
    assert response.status_code == 400
    assert response.json()["success"] is False
    assert response.json()["error"].endswith("not found")


def test_a_name_no_company_could_have_is_not_found_by_its_own_name(client: Client, db: None) -> None:
    response = search(client, "..%2Fetc")
    assert response.status_code == 400
    assert response.json()["error"] == "Company '../etc' not found"


def test_switched_off_company_is_unknown(client: Client, acme: Company) -> None:
    Company.objects.update(active=False)
    assert search(client, "acme").json()["error"] == "Company 'acme' not found"


def test_company_without_index_says_how_to_build_one(client: Client, db: None) -> None:
    Company.objects.create(name="new")
    response = search(client, "new")
    assert response.status_code == 503
    assert "build_embeddings --company new" in response.json()["error"]


def test_a_wrong_form_is_refused_before_the_index_is_looked_for(client: Client, db: None) -> None:
    Company.objects.create(name="new")
    assert search(client, "new", image=picture(RED), top_k="0").status_code == 400
    assert client.get(f"/api/search/new/{uuid4()}?min_score=2").status_code == 400


@pytest.mark.parametrize("name", ["query.pdf", "query", "query.png.exe", "query.svg"])
def test_other_file_types_are_refused(client: Client, acme: Company, name: str) -> None:
    response = search(client, "acme", image=picture(RED, name))
    assert response.status_code == 400
    assert response.json() == {
        "success": False,
        "error": "File type not allowed. Allowed types: png, jpg, jpeg, gif, bmp, tiff, tif, webp",
        "code": "file_type_not_allowed",
    }


def test_missing_image_is_a_400(client: Client, acme: Company) -> None:
    response = search(client, "acme", top_k="3")
    assert response.status_code == 400
    assert "image" in response.json()["error"]


def test_image_sent_as_text_is_a_400(client: Client, acme: Company) -> None:
    assert search(client, "acme", image="not a file").status_code == 400


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"not a picture at all" * 10, picture(RED).getvalue()[:60]])
def test_empty_or_unreadable_image_is_a_400(client: Client, acme: Company, content: bytes) -> None:
    file = BytesIO(content)
    file.name = "query.png"
    response = search(client, "acme", image=file)
    assert response.status_code == 400
    assert response.json()["success"] is False


def test_picture_of_more_pixels_than_allowed_is_a_400(client: Client, acme: Company, settings: Any) -> None:
    settings.MAX_PIXELS = 63
    response = search(client, "acme")
    assert response.status_code == 400
    assert "63" in response.json()["error"]


def test_image_over_16_mb_is_a_413(client: Client, acme: Company) -> None:
    file = BytesIO(bytes(django_settings.MAX_UPLOAD_BYTES + 1))
    file.name = "query.png"
    response = search(client, "acme", image=file)
    assert response.status_code == 413
    assert response.json() == {
        "success": False,
        "error": "The image is too large: at most 16 MB are accepted",
        "code": "image_too_large",
    }


def test_image_of_16_mb_is_read(client: Client, acme: Company) -> None:
    content = picture(RED).getvalue()
    file = BytesIO(content + bytes(django_settings.MAX_UPLOAD_BYTES - len(content)))
    file.name = "query.png"
    assert search(client, "acme", image=file).status_code == 200


def test_declared_length_over_16_mb_is_refused_unread(client: Client, acme: Company) -> None:
    class Unreadable:
        def read(self, *_: Any) -> bytes:
            raise AssertionError("the body was read")

        readline = read

    response = client.generic(
        "POST",
        "/api/search/acme",
        **{
            "CONTENT_TYPE": "multipart/form-data; boundary=x",
            "CONTENT_LENGTH": str(10**12),
            "wsgi.input": Unreadable(),
        },
    )
    assert response.status_code == 413


def test_body_that_is_no_form_is_a_415(client: Client, acme: Company) -> None:
    response = client.post("/api/search/acme", b"{}", content_type="application/json")
    assert response.status_code == 415
    assert response.json()["success"] is False


def test_broken_form_is_a_400(client: Client, acme: Company) -> None:
    response = client.post("/api/search/acme", b"--x\r\nbroken", content_type="multipart/form-data")
    assert response.status_code == 400
    assert response.json()["success"] is False


def test_trailing_slash_makes_no_difference(client: Client, acme: Company) -> None:
    for path in ("/api/search/acme", "/api/search/acme/"):
        assert client.post(path, {"image": picture(RED)}).json()["total_results"] == 4


def test_index_of_another_model_is_refused_naming_both(client: Client, acme: Company) -> None:
    runtime.use(FakeEmbedder("e" * 64))
    response = search(client, "acme")
    assert response.status_code == 503
    assert "ffffffffffff" in response.json()["error"]
    assert "eeeeeeeeeeee" in response.json()["error"]


def test_rebuild_is_seen_by_the_next_search(client: Client, acme: Company) -> None:
    from django.core.management import call_command

    assert search(client, "acme").json()["total_results"] == 4
    (acme.image_directory / "green.jpg").unlink()
    call_command("build_embeddings", company="acme")
    assert search(client, "acme").json()["total_results"] == 3


def test_damaged_index_is_a_503_that_names_the_file(client: Client, acme: Company) -> None:
    (acme.embeddings_directory / "metadata.json").write_text("[]")
    response = search(client, "acme")
    assert response.status_code == 503
    assert "metadata.json" in response.json()["error"]
    assert str(acme.embeddings_directory) not in response.json()["error"]


def test_a_company_never_sees_anothers_pictures(client: Client, acme: Company, make_company: MakeCompany) -> None:
    make_company("globex", {"theirs.png": RED})
    assert [entry["fullPath"] for entry in search(client, "globex").json()["results"]] == ["theirs.png"]
    assert "theirs.png" not in {entry["fullPath"] for entry in search(client, "acme").json()["results"]}


def test_a_third_large_picture_at_a_time_is_told_to_come_again(client: Client, acme: Company) -> None:
    def wait() -> None:
        with runtime.gate().pass_through(pixels=ORDINARY_PIXELS + 1, decoded=1, limit=10**8):
            pass

    large = encoded(Image.new("RGB", (6001, 5000), "red"), "PNG")
    reading = runtime.gate().pass_through(pixels=ORDINARY_PIXELS + 1, decoded=1, limit=10**8)
    with ThreadPoolExecutor(2) as threads, reading:
        others = [threads.submit(wait) for _ in range(2)]
        eventually(lambda: any(other.done() for other in others), "one waits and one is refused")
        answer = search(client, "acme", image=SimpleUploadedFile("a.png", large))
        assert search(client, "acme").status_code == 200
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert "large pictures" in answer.json()["error"]
