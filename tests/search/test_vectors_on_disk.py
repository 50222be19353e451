"""Where the vectors of an index lie, and what becomes of a search when somebody cuts them short there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command
from django.test import Client

from search.engine.vectors import DIMENSION
from search.pictures import put_image
from search.tasks import carry_out_build
from tenants.audit import on_command_line
from tenants.models import Company
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.indexes import COPY, flask_directory, some_vectors

MakeCompany = Callable[..., Company]

_MORE_THAN_64_MB = 17_500  # vectors


def search(company: str) -> Any:
    return Client().post(f"/api/search/{company}", {"image": picture(RED)})


@pytest.mark.slow
def test_vectors_cut_short_under_a_server_are_a_503_until_they_are_whole_again(
    db: None, embedder: FakeEmbedder
) -> None:
    directory = Company.objects.create(name="acme").embeddings_directory
    vectors = np.repeat(some_vectors(_MORE_THAN_64_MB // 50), 50, axis=0)
    flask_directory(directory, vectors, [f"{number}.png" for number in range(len(vectors))], without=[COPY])
    before = search("acme").json()
    file = directory / "faiss_index.bin"
    os.truncate(file, 4 * DIMENSION * 9_000)
    response = search("acme")
    assert (response.status_code, response.json()["success"]) == (503, False)
    assert "faiss_index.bin ends before byte" in response.json()["error"]
    with file.open("r+b") as opened:  # in place, as by somebody who copies it back
        opened.seek(45)
        opened.write(vectors.tobytes())
    assert search("acme").json()["results"] == before["results"]


@pytest.fixture
def acme(settings: Any, make_company: MakeCompany) -> Company:
    """Return a company of an installation that does without embeddings.npy."""
    settings.WRITE_EMBEDDINGS_NPY = False
    return make_company("acme", {"red.png": RED, "blue.png": BLUE})


def test_the_copy_is_left_out_of_builds_where_it_is_not_wanted(acme: Company, tmp_path: Path) -> None:
    call_command("build_embeddings", company="acme", output_dir=tmp_path / "elsewhere")
    for directory in (acme.embeddings_directory, tmp_path / "elsewhere"):
        assert (directory / "faiss_index.bin").exists()
        assert not (directory / COPY).exists()
    assert len(search("acme").json()["results"]) == 2


def test_the_copy_is_left_out_of_builds_that_workers_carry_out(acme: Company) -> None:
    paint(acme.image_directory / "green.png", GREEN)
    carry_out_build.func(acme.queue_build().pk)
    assert len(search("acme").json()["results"]) == 3
    assert not (acme.embeddings_directory / COPY).exists()


def test_the_copy_is_left_out_of_folds_and_of_imported_directories(
    acme: Company, tmp_path: Path, settings: Any
) -> None:
    put_image(acme, "green.png", picture(GREEN).getvalue(), by=on_command_line())
    carry_out_build.func(acme.queue_build(fold=True).pk)
    call_command("import_company", "globex", acme.embeddings_directory, trust=True)
    for name in ("acme", "globex"):
        assert len(search(name).json()["results"]) == 3
        assert not (settings.EMBEDDINGS_DIR / name / COPY).exists()


def test_an_archive_without_the_copy_is_whole(acme: Company, tmp_path: Path) -> None:
    call_command("export_company", "acme", to=tmp_path / "acme.tar", with_images=True)
    call_command("import_company", "globex", tmp_path / "acme.tar")
    assert len(search("globex").json()["results"]) == 2
    call_command("check_index", "globex")
    assert not (Company.objects.get(name="globex").embeddings_directory / COPY).exists()


def test_the_setting_holds_from_the_next_build_on(acme: Company, embedder: FakeEmbedder, settings: Any) -> None:
    embedded = embedder.embedded
    for wanted in (True, False):
        settings.WRITE_EMBEDDINGS_NPY = wanted
        call_command("build_embeddings", company="acme")
        assert (acme.embeddings_directory / COPY).exists() == wanted
        call_command("check_index", "acme")
    assert embedder.embedded == embedded
