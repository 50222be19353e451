"""check_index on real files: what is sound, what is damaged, and what serves meanwhile."""

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path

import faiss
import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from search.engine import storage
from search.engine.errors import IndexCorrupt
from search.engine.index import calibration, coarse
from search.engine.index.index import IndexInfo
from search.tasks import carry_out_build
from tenants.models import Company
from tests.conftest import picture
from tests.support.damage import flip_a_byte
from tests.support.drawing import scene
from tests.support.fakes import BLUE, GREEN, RED
from tests.support.indexes import OUR_FILES, clustered, flask_directory, some_records, some_vectors

MakeCompany = Callable[..., Company]

FILES = [*OUR_FILES, "given_ids.json", "SHA256SUMS"]


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"red.png": RED, "Cold/blue.png": BLUE, "copy of red.png": RED})


def check(*arguments: str, **options: bool) -> str:
    out = StringIO()
    call_command("check_index", *arguments, stdout=out, **options)
    return out.getvalue()


def failed_check(*arguments: str, **options: bool) -> str:
    """Return what a check prints that ends with an error."""
    out = StringIO()
    with pytest.raises(CommandError, match="have a damaged index") as failure:
        call_command("check_index", *arguments, stdout=out, **options)
    assert failure.value.returncode == 1
    return out.getvalue()


def search(client: Client) -> tuple[int, list[str]]:
    response = client.post("/api/search/acme", {"image": picture(RED), "top_k": 3})
    return response.status_code, [entry["fullPath"] for entry in response.json().get("results", [])]


def forget_checksums(directory: Path) -> None:
    """Make an index one of before there were checksums."""
    (directory / "SHA256SUMS").unlink()
    info = json.loads((directory / "index_info.json").read_text())
    (directory / "index_info.json").write_text(json.dumps(info | {"format": 1}))


def make_flask_company(name: str = "flask", count: int = 9) -> Company:
    company = Company.objects.create(name=name)
    flask_directory(company.embeddings_directory, some_vectors(count), [f"{n}.png" for n in range(count)])
    return company


def test_a_sound_index_is_one_line(acme: Company) -> None:
    assert check("acme") == "acme: ok, 3 pictures, files as published, 1.0000 of the true neighbours found\n"


def test_all_companies_are_checked_also_those_without_index(acme: Company) -> None:
    Company.objects.create(name="globex", active=False)
    make_flask_company()
    lines = check(all=True).splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "acme: ok",
        "flask: ok",
        "globex: no index yet",
    ]
    assert "no checksums recorded" in lines[1]


def test_one_damaged_index_among_many_fails_the_check_and_is_named(acme: Company) -> None:
    make_flask_company()
    flip_a_byte(acme.embeddings_directory / "embeddings.npy", 2000)
    printed = failed_check(all=True)
    assert "acme: DAMAGED." in printed
    assert "embeddings.npy has changed since it was published" in printed
    assert "rollback_index acme, or build_embeddings --company acme --full" in printed
    assert "flask: ok" in printed


@pytest.mark.parametrize("arguments", [[], ["acme", "--all"], ["nobody"]])
def test_what_is_to_be_checked_is_said(acme: Company, arguments: list[str]) -> None:
    with pytest.raises(CommandError, match=r"Name the companies|nobody does not exist"):
        call_command("check_index", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_in_any_file_is_found_and_the_next_build_heals_it(
    client: Client, acme: Company, name: str, place: str
) -> None:
    """Meanwhile a search answers rightly or says that the index cannot be used."""
    sound = search(client)[1]
    file = acme.embeddings_directory / name
    size = file.stat().st_size
    flip_a_byte(file, {"first": 0, "middle": size // 2, "last": size - 1}[place])
    printed = failed_check("acme")
    assert name in printed
    status, paths = search(client)
    assert (status, paths) == (200, sound) or status == 503
    call_command("build_embeddings", company="acme")
    assert "acme: ok" in check("acme")
    assert search(client) == (200, sound)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(acme: Company, name: str) -> None:
    (acme.embeddings_directory / name).unlink()
    assert f"{name} is missing" in failed_check("acme")


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_index_is_found(acme: Company, make_company: MakeCompany, name: str) -> None:
    globex = make_company("globex", {"green.png": GREEN, "white.png": (255, 255, 255), "x.png": (1, 2, 3)})
    scene(1).save(globex.image_directory / "x.png")  # one colour alone is hashed as any other
    call_command("build_embeddings", company="globex")
    shutil.copy(globex.embeddings_directory / name, acme.embeddings_directory / name)
    if (acme.embeddings_directory / name).read_bytes() == b"{}":  # no ids were given to either
        return
    failed_check("acme")


def test_a_changed_vector_is_not_handed_on_by_an_incremental_build(acme: Company) -> None:
    size = (acme.embeddings_directory / "faiss_index.bin").stat().st_size
    sound = storage.load(acme.embeddings_directory).vectors[:]
    flip_a_byte(acme.embeddings_directory / "faiss_index.bin", size - 4 * 960 + 5)
    (acme.image_directory / "new.png").write_bytes(picture(GREEN).getvalue())
    call_command("build_embeddings", company="acme")
    vectors = storage.load(acme.embeddings_directory).vectors[:]
    np.testing.assert_array_equal(np.delete(vectors, 2, axis=0), sound)  # "new.png" sorts third


def test_a_fold_refuses_a_damaged_index(acme: Company) -> None:
    acme.next_live_sequence(at_least=0)
    flip_a_byte(acme.embeddings_directory / "signatures.npy", 200)
    build = acme.queue_build(fold=True)
    with pytest.raises(IndexCorrupt):
        carry_out_build.func(build.pk)
    build.refresh_from_db()
    assert (build.status, build.error) == ("failed", "signatures.npy has changed since it was published")


def test_checksums_are_those_of_sha256sum(acme: Company) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=acme.embeddings_directory, check=True)


def test_an_index_published_before_there_were_checksums_is_checked_without(acme: Company) -> None:
    forget_checksums(acme.embeddings_directory)
    assert "acme: ok, 3 pictures, no checksums recorded" in check("acme")


# Without checksums, by what the files say


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.nan, "1 vectors are not finite"), (np.inf, "1 vectors are not finite"), (3.0, "1 vectors are not finite")],
)
def test_a_vector_that_is_none_is_found(db: None, value: float, said: str) -> None:
    company = Company.objects.create(name="flask")
    vectors = some_vectors(9)
    vectors[4, 7] = value
    flask_directory(company.embeddings_directory, vectors, [f"{n}.png" for n in range(9)])
    assert said in failed_check("flask")


@pytest.mark.parametrize("damage", ["truncate", "entries", "ids", "path"])
def test_a_damaged_flask_index_is_found(db: None, damage: str) -> None:
    directory = make_flask_company().embeddings_directory
    entries = json.loads((directory / "metadata.json").read_text())
    if damage == "truncate":
        (directory / "faiss_index.bin").write_bytes((directory / "faiss_index.bin").read_bytes()[:-4])
    elif damage == "entries":
        entries.pop()
    elif damage == "ids":
        entries[3]["id"] = entries[4]["id"]
    else:
        entries[3]["fullPath"] = "../elsewhere/3.png"
    (directory / "metadata.json").write_text(json.dumps(entries))
    assert ("faiss_index.bin" if damage == "truncate" else "metadata.json") in failed_check("flask")


def test_a_first_pass_that_finds_too_little_is_found(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes whose vectors stand elsewhere, in a file that FAISS reads without complaint."""
    monkeypatch.setattr(coarse, "MIN_IMAGES", 1_000)
    monkeypatch.setattr(calibration, "_QUERIES", 50)
    directory = Company.objects.create(name="acme").embeddings_directory
    with storage.IndexWriter(directory) as writer:
        writer.add(clustered(1200, seed=1), sorted(some_records(1200), key=lambda record: record.path))
        writer.publish(IndexInfo(0), partial(storage.publish_by_link, directory, keep=0))
    assert "acme: ok" in check("acme")
    forget_checksums(directory)
    reversed_vectors = faiss.IndexFlatIP(960)
    reversed_vectors.add(np.ascontiguousarray(np.load(directory / "embeddings.npy")[::-1]))
    faiss.write_index(reversed_vectors, str(directory / "faiss_index.bin"))
    assert "do not find themselves" in failed_check("acme")
    (directory / "coarse_index.bin").write_bytes(b"nothing")
    assert "coarse_index.bin cannot be read" in failed_check("acme")
