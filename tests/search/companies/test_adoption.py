import logging
import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from PIL import Image

from tenants.models import Company, IndexBuild
from tests.conftest import picture
from tests.support.fakes import BLUE, RED, FakeEmbedder
from tests.support.indexes import flask_directory, publish, some_records, some_vectors

pytestmark = pytest.mark.django_db


def flask(directory: Path) -> list[str]:
    """Make the Flask index of a red and a blue picture; return the ids."""
    model = FakeEmbedder()
    vectors = model.embed([model.prepare(Image.new("RGB", (8, 8), colour)) for colour in (RED, BLUE)])
    return flask_directory(directory, vectors, ["red.png", "sub/blue.png"])


def adopt() -> str:
    out = StringIO()
    call_command("adopt_companies", stdout=out)
    return out.getvalue()


def names() -> list[str]:
    return [company.name for company in Company.objects.all()]


@pytest.fixture
def embeddings(settings: Any) -> Path:
    directory: Path = settings.EMBEDDINGS_DIR
    return directory


def test_unknown_directories_become_companies_and_are_logged(
    embeddings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flask(embeddings / "AOF")
    publish(embeddings / "globex", some_records(3), some_vectors(3))
    with caplog.at_level(logging.INFO):
        out = adopt()
    assert names() == ["AOF", "globex"]
    assert "Adopted AOF" in out
    assert "2 companies adopted" in out
    assert [str(embeddings / name) in caplog.text for name in ("AOF", "globex")] == [True, True]


def test_adopted_index_is_served_as_it_is(embeddings: Path, client: Client, embedder: FakeEmbedder) -> None:
    ids = flask(embeddings / "AOF")
    before = {file.name: file.read_bytes() for file in (embeddings / "AOF").iterdir()}
    adopt()
    results = client.post("/api/search/AOF", {"image": picture(RED)}).json()["results"]
    assert [(entry["fullPath"], entry["id"]) for entry in results] == [("red.png", ids[0]), ("sub/blue.png", ids[1])]
    assert client.get("/api/companies").json()["total"] == 1
    assert {file.name: file.read_bytes() for file in (embeddings / "AOF").iterdir()} == before


def test_adopted_index_shows_as_a_finished_build(embeddings: Path) -> None:
    flask(embeddings / "AOF")
    adopt()
    build = Company.objects.get().builds.get()
    assert (build.status, build.total_images) == (IndexBuild.Status.SUCCEEDED, 2)
    assert build.finished_at is not None


def test_second_adoption_makes_nothing_twice(embeddings: Path) -> None:
    flask(embeddings / "AOF")
    adopt()
    assert "0 companies adopted" in adopt()
    assert IndexBuild.objects.count() == 1


def test_known_companies_are_left_alone(embeddings: Path) -> None:
    Company.objects.create(name="AOF", active=False, notes="switched off")
    flask(embeddings / "AOF")
    adopt()
    company = Company.objects.get()
    assert (company.active, company.notes, company.builds.count()) == (False, "switched off", 0)


@pytest.mark.parametrize("name", ["bad name", ".hidden", "caf\u00e9", "trailing.", "x" * 65, "a&b", "line\nbreak"])
def test_directory_whose_name_no_company_can_have_is_left_alone(
    embeddings: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    flask(embeddings / name)
    flask(embeddings / "good")
    adopt()
    assert names() == ["good"]
    assert (embeddings / name / "faiss_index.bin").is_file()
    assert name.startswith(".") or f"{embeddings / name} is not adopted" in caplog.text


def test_directory_whose_pictures_are_another_companys_is_left_alone(
    embeddings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Company.objects.create(name="globex", image_folder="AOF/shared")
    flask(embeddings / "AOF")
    adopt()
    assert names() == ["globex"]
    assert "overlaps with the image folder of globex" in caplog.text


def test_directory_whose_name_is_no_text_is_left_alone(embeddings: Path) -> None:
    flask(embeddings / "good")
    flask(embeddings / "other")
    (embeddings / "other").rename(os.fsdecode(os.fsencode(embeddings) + b"/caf\xe9"))
    adopt()
    assert names() == ["good"]


def test_directory_that_differs_in_case_alone_is_left_alone(embeddings: Path) -> None:
    Company.objects.create(name="acme")
    for name in ("ACME", "Twice", "twice"):
        flask(embeddings / name)
    adopt()
    assert names() == ["Twice", "acme"]


def test_other_things_are_no_companies(embeddings: Path) -> None:
    (embeddings / "empty").mkdir()
    (embeddings / "notes.txt").write_text("x")
    (embeddings / "dangling").symlink_to(embeddings / "nowhere")
    assert "0 companies adopted" in adopt()
    assert names() == []


@pytest.mark.parametrize("file", ["faiss_index.bin", "index_info.json"])
def test_damaged_directory_is_logged_and_does_not_stop_the_others(
    embeddings: Path, caplog: pytest.LogCaptureFixture, file: str
) -> None:
    for name in ("a-good", "broken", "z-good"):
        flask(embeddings / name)
    (embeddings / "broken" / file).write_bytes(b"")
    adopt()
    assert names() == ["a-good", "z-good"]
    assert f"{embeddings / 'broken'} is not adopted" in caplog.text
    assert file in caplog.text


def test_half_a_flask_directory_is_logged(embeddings: Path, caplog: pytest.LogCaptureFixture) -> None:
    flask(embeddings / "AOF")
    (embeddings / "AOF" / "metadata.json").unlink()
    adopt()
    assert names() == []
    assert "metadata.json is missing" in caplog.text
