import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from PIL import Image

from search import runtime
from tenants.models import Company
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder

MakeCompany = Callable[..., Company]
PROJECT = Path(__file__).resolve().parents[3]

Run = Callable[..., tuple[dict[str, Any], int]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return the command's JSON from standard output and its exit status."""

    def run_command(*arguments: object) -> tuple[dict[str, Any], int]:
        capsys.readouterr()
        code = 0
        try:
            call_command("search_similar_images", *map(str, arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
        body: dict[str, Any] = json.loads(capsys.readouterr().out)
        return body, code

    return run_command


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"Warm/Red one.png": RED, "blue.png": BLUE, "green.png": GREEN})


@pytest.fixture
def query(tmp_path: Path) -> Path:
    return paint(tmp_path / "query.png", RED)


def test_answer_is_that_of_the_api(run: Run, client: Client, acme: Company, query: Path) -> None:
    body, code = run("--query_image", query, "--company", "acme")
    answer = client.post("/api/search/acme", {"image": picture(RED)}).json()
    assert code == 0
    assert {**body, "timestamp": ""} == {**answer, "timestamp": ""}
    assert body["results"][0]["fullPath"] == "Warm/Red one.png"
    assert len(body["timestamp"]) == len("2025-10-27T12:00:00.000Z")


@pytest.mark.parametrize(("top_k", "found"), [(1, 1), (2, 2), (50, 3), (1000, 3)])
def test_top_k_says_how_many(run: Run, acme: Company, query: Path, top_k: int, found: int) -> None:
    body, code = run("--query_image", query, "--company", "acme", "--top_k", top_k)
    assert (body["total_results"], len(body["results"]), code) == (found, found, 0)


def test_a_part_of_the_picture_is_searched_with(run: Run, acme: Company, tmp_path: Path) -> None:
    scene = Image.new("RGB", (100, 50), RED)
    scene.paste(BLUE, (80, 0, 100, 50))
    scene.save(tmp_path / "scene.png")
    arguments = "--query_image", tmp_path / "scene.png"
    assert run(*arguments, "--company", "acme")[0]["results"][0]["fullPath"] == "Warm/Red one.png"
    for where in (["--company", "acme"], ["--embeddings_dir", acme.embeddings_directory]):
        body, code = run(*arguments, *where, "--crop", "0.8,0,0.2,1")
        assert (body["results"][0]["fullPath"], code) == ("blue.png", 0)
        require_error(run(*arguments, *where, "--crop=0.8,0,0.3,1"), "inside the picture")
        require_error(run(*arguments, *where, "--crop", "0,0,0.1,0.1"), "at least 16 x 16")


def test_several_pictures_are_one_search_for_what_lies_between_them(
    run: Run, acme: Company, query: Path, tmp_path: Path
) -> None:
    blue, violet = paint(tmp_path / "blue.png", BLUE), paint(acme.image_directory / "violet.png", (255, 0, 255))
    call_command("build_embeddings", company="acme")
    for arguments in (["--query_image", query, blue], ["--query_image", query, "--query_image", blue]):
        body, code = run(*arguments, "--company", "acme")
        assert (body["results"][0]["fullPath"], code) == (violet.name, 0)
    require_error(run("--query_image", *[query] * 6, "--company", "acme"), "at most 5 pictures")
    require_error(run("--query_image", query, blue, "--company", "acme", "--crop", "0,0,1,1"), "one picture")
    missing = tmp_path / "missing.png"
    require_error(run("--query_image", query, missing, "--company", "acme"), "missing.png cannot be read")


def test_directory_of_an_index_is_searched_without_a_company(
    run: Run, acme: Company, query: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("--query_image", query, "--company", "acme")[0]["results"]
    Company.objects.all().delete()
    assert run("--query_image", query, "--embeddings_dir", acme.embeddings_directory)[0]["results"] == expected
    monkeypatch.chdir(acme.embeddings_directory.parent)
    assert run("--query_image", query, "--embeddings_dir", "acme")[0]["results"] == expected
    monkeypatch.chdir("acme")
    assert run("--query_image", query, "--embeddings_dir", ".")[0]["results"] == expected


def test_paths_become_absolute_below_the_base_directory(
    run: Run, acme: Company, query: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for base in (tmp_path / "pictures", "pictures"):
        body, _ = run("--query_image", query, "--company", "acme", "--images_base_dir", base)
        first = body["results"][0]
        assert first["fullPath"] == str(tmp_path / "pictures" / "Warm" / "Red one.png")
        assert (first["location"], first["name"]) == ("Warm", "Red one")


def require_error(answer: tuple[dict[str, Any], int], part: str) -> None:
    body, code = answer
    assert code != 0
    assert set(body) == {"success", "error", "code"}
    assert body["success"] is False
    assert part in body["error"]


def test_errors_are_json_too(run: Run, acme: Company, query: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    paint(tmp_path / "picture.png", RED).rename(tmp_path / "picture.pdf")
    require_error(run("--query_image", query, "--company", "nobody"), "Company 'nobody' not found")
    require_error(run("--query_image", query, "--company", "../acme"), "Company '../acme' not found")
    require_error(run("--query_image", tmp_path / "missing.png", "--company", "acme"), "missing.png")
    require_error(run("--query_image", tmp_path, "--company", "acme"), str(tmp_path))
    require_error(run("--query_image", tmp_path / "broken.png", "--company", "acme"), "Not a picture")
    require_error(run("--query_image", tmp_path / "picture.pdf", "--company", "acme"), "type not allowed")
    require_error(run("--query_image", query, "--embeddings_dir", tmp_path / "nothing"), "nothing")


def test_switched_off_company_is_not_found(run: Run, acme: Company, query: Path) -> None:
    Company.objects.update(active=False)
    require_error(run("--query_image", query, "--company", "acme"), "Company 'acme' not found")


def test_company_without_index_says_how_to_build_one(run: Run, db: None, query: Path) -> None:
    Company.objects.create(name="new")
    require_error(run("--query_image", query, "--company", "new"), "build_embeddings --company new")


def test_damaged_index_is_an_error_that_names_the_file(run: Run, acme: Company, query: Path) -> None:
    (acme.embeddings_directory / "metadata.json").write_text("[]")
    require_error(run("--query_image", query, "--company", "acme"), "metadata.json")


def test_index_of_another_model_is_an_error(run: Run, acme: Company, query: Path) -> None:
    runtime.use(FakeEmbedder("e" * 64))
    require_error(run("--query_image", query, "--company", "acme"), "eeeeeeeeeeee")
    require_error(run("--query_image", query, "--embeddings_dir", acme.embeddings_directory), "ffffffffffff")


@pytest.mark.parametrize("top_k", ["0", "-3", "ten", "1.5", ""])
def test_top_k_that_is_no_whole_number_from_one_is_an_error(run: Run, acme: Company, query: Path, top_k: str) -> None:
    require_error(run("--query_image", query, "--company", "acme", f"--top_k={top_k}"), "whole number of at least 1")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--company", "acme"], "--query_image"),
        (["--query_image", "x.png"], "--company"),
        (["--query_image", "x.png", "--company", "a", "--embeddings_dir", "b"], "not allowed with"),
        (["--query_image", "x.png", "--company", ""], "not found"),
        (["--query_image", "x.png", "--company", "a", "--unknown"], "--unknown"),
    ],
)
def test_wrong_use_is_an_error_in_json(run: Run, db: None, arguments: list[str], part: str) -> None:
    require_error(run(*arguments), part)


def test_standard_output_holds_the_json_alone(tmp_path: Path) -> None:
    """Through a process of its own, with an empty database: logs and tracebacks stay off standard output."""
    environment = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "IMAGESEARCH_EMBEDDINGS_DIR": str(tmp_path),
        "IMAGESEARCH_MEDIA_DIR": str(tmp_path),
        "LOG_LEVEL": "DEBUG",
    }
    arguments = ["--query_image", "x.png", "--embeddings_dir", str(tmp_path), "--top_k", "ten"]
    for last in ("ten", "3"):
        arguments[-1] = last
        done = subprocess.run(
            [sys.executable, "manage.py", "search_similar_images", *arguments],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode != 0
        assert json.loads(done.stdout)["success"] is False
