import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from PIL import Image

from search import runtime
from search.engine import storage
from search.engine.model.passport import ModelPassport
from search.engine.model.transform import Pixels
from search.engine.vectors import Vectors
from search.pictures import put_image
from tenants.audit import on_command_line
from tenants.models import Company, IndexBuild
from tests.conftest import paint, picture
from tests.support.admin import search_names
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.indexes import FLASK_FILES, flask_directory, publish, some_records, some_vectors

COLOURS = {"z/red.png": RED, "Warm/orange.png": (255, 128, 0), "blue.png": BLUE, "green.png": GREEN}

pytestmark = pytest.mark.django_db


class MirrorEmbedder(FakeEmbedder):
    """Another model: sees the colours the other way round."""

    def __init__(self) -> None:
        super().__init__("e" * 64)
        self.passport = ModelPassport("mirror-weights", "e" * 64)

    def embed(self, batch: Sequence[Pixels]) -> Vectors:
        vectors = super().embed([pixels[::-1] for pixels in batch])
        return np.ascontiguousarray(np.roll(vectors, 7, axis=1))


@pytest.fixture(autouse=True)
def at_hand(embedder: FakeEmbedder, monkeypatch: pytest.MonkeyPatch) -> list[FakeEmbedder]:
    """The other models that need no download: none, until a test adds one."""
    others: list[FakeEmbedder] = []
    monkeypatch.setattr(runtime, "embedders_at_hand", lambda: others)
    return others


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for path, colour in COLOURS.items():
        paint(tmp_path / "pictures" / path, colour)
    return tmp_path / "pictures"


def flask(directory: Path, made_by: FakeEmbedder | None = None) -> dict[str, str]:
    """Make the Flask index of COLOURS; return its ids by path."""
    model = made_by or FakeEmbedder()
    vectors = model.embed([model.prepare(Image.new("RGB", (8, 8), colour)) for colour in COLOURS.values()])
    return dict(zip(COLOURS, flask_directory(directory, vectors, list(COLOURS)), strict=True))


def import_company(*arguments: object, **options: Any) -> tuple[str, str]:
    """Return what the command writes to standard output and to standard error."""
    out, err = StringIO(), StringIO()
    call_command("import_company", *arguments, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def ids(name: str) -> dict[str, str]:
    directory = Company(name=name).embeddings_directory
    return {entry["fullPath"]: entry["id"] for entry in json.loads((directory / "metadata.json").read_text())}


def search(client: Client, name: str = "acme") -> Any:
    return client.post(f"/api/search/{name}", {"image": picture(RED)})


def test_imported_company_is_searched_with_its_old_ids(client: Client, tmp_path: Path) -> None:
    old = flask(tmp_path / "flask")
    out, _ = import_company("acme", tmp_path / "flask")
    assert "Created company acme" in out
    assert "Imported 4 pictures" in out
    first = search(client).json()["results"][0]
    assert (first["fullPath"], first["id"]) == ("z/red.png", old["z/red.png"])
    assert first["score"] == pytest.approx(1, abs=1e-6)
    assert ids("acme") == old


def test_ids_stay_over_the_rebuild_that_follows(client: Client, tmp_path: Path, images: Path) -> None:
    old = flask(tmp_path / "flask")
    import_company("acme", tmp_path / "flask")
    paint(images / "new.png", (7, 7, 7))
    for _ in range(2):
        call_command("build_embeddings", company="acme", input_dir=images, stdout=StringIO())
        after = ids("acme")
        assert after.pop("new.png") not in old.values()
        assert after == old
        assert search(client).json()["total_results"] == 5


def test_import_shows_as_a_finished_build(tmp_path: Path) -> None:
    flask(tmp_path / "flask")
    import_company("acme", tmp_path / "flask")
    row = Company.objects.get().builds.get()
    assert (row.status, row.total_images) == (IndexBuild.Status.SUCCEEDED, 4)


def test_source_stays_unless_it_is_moved(tmp_path: Path) -> None:
    flask(tmp_path / "flask")
    import_company("acme", tmp_path / "flask")
    assert sorted(file.name for file in (tmp_path / "flask").iterdir()) == sorted(FLASK_FILES)
    import_company("globex", tmp_path / "flask", move=True)
    assert not (tmp_path / "flask").exists()
    assert ids("acme") == ids("globex")


def test_move_leaves_pictures_beside_the_index(tmp_path: Path) -> None:
    flask(tmp_path / "flask")
    paint(tmp_path / "flask" / "wedding.png", RED)
    import_company("acme", tmp_path / "flask", move=True)
    assert [file.name for file in (tmp_path / "flask").iterdir()] == ["wedding.png"]


@pytest.mark.parametrize("without", [["index_info.json"], ["embeddings.npy"], ["index_info.json", "embeddings.npy"]])
def test_missing_files_of_the_flask_service_do_not_matter(client: Client, tmp_path: Path, without: list[str]) -> None:
    old = flask(tmp_path / "flask")
    for name in without:
        (tmp_path / "flask" / name).unlink()
    import_company("acme", tmp_path / "flask")
    assert search(client).json()["results"][0]["id"] == old["z/red.png"]


# Which model --------------------------------------------------------------------------------------------------------


def test_pictures_tell_that_the_vectors_are_those_of_the_configured_weights(
    client: Client, tmp_path: Path, images: Path
) -> None:
    flask(tmp_path / "flask")
    out, err = import_company("acme", tmp_path / "flask", images=images)
    assert "The vectors match fake-weights" in out
    assert "1.0000" in out
    assert "refused" not in err
    assert storage.info(Company.objects.get().embeddings_directory).fingerprint == "f" * 64
    assert search(client).status_code == 200


def test_pictures_tell_that_the_vectors_are_those_of_another_entry(
    client: Client, tmp_path: Path, images: Path, at_hand: list[FakeEmbedder]
) -> None:
    at_hand.append(MirrorEmbedder())
    flask(tmp_path / "flask", made_by=MirrorEmbedder())
    out, _ = import_company("acme", tmp_path / "flask", images=images)
    assert "The vectors match mirror-weights" in out
    refused = search(client)
    assert refused.status_code == 503
    assert "mirror-weights" in refused.json()["error"]
    runtime.use(MirrorEmbedder())
    assert search(client).json()["results"][0]["fullPath"] == "z/red.png"


def test_index_of_no_known_model_is_refused_until_it_is_rebuilt(client: Client, tmp_path: Path, images: Path) -> None:
    old = flask(tmp_path / "flask", made_by=MirrorEmbedder())
    out, err = import_company("acme", tmp_path / "flask", images=images)
    assert "match no model on this machine" in err
    assert "refused" in err
    assert "Imported 4 pictures" in out
    response = search(client)
    assert response.status_code == 503
    assert "fake-weights" in response.json()["error"]
    assert "build_embeddings" in response.json()["error"]
    call_command("build_embeddings", company="acme", input_dir=images, stdout=StringIO())
    assert search(client).json()["results"][0]["id"] == old["z/red.png"]


def test_trust_serves_an_index_of_no_known_model(client: Client, tmp_path: Path, images: Path) -> None:
    flask(tmp_path / "flask", made_by=MirrorEmbedder())
    _, err = import_company("acme", tmp_path / "flask", images=images, trust=True)
    assert "match no model on this machine" in err
    assert "refused" not in err
    assert search(client).status_code == 200


def test_refused_index_is_trusted_afterwards_as_the_command_advises(
    client: Client, tmp_path: Path, images: Path
) -> None:
    old = flask(tmp_path / "flask", made_by=MirrorEmbedder())
    _, err = import_company("acme", tmp_path / "flask", images=images, move=True)
    target = Company.objects.get().embeddings_directory
    assert f"import_company acme {target} --trust" in err
    import_company("acme", target, trust=True)
    assert search(client).status_code == 200
    assert ids("acme") == old


def test_trust_without_pictures_takes_the_configured_weights(tmp_path: Path) -> None:
    flask(tmp_path / "flask")
    import_company("acme", tmp_path / "flask", trust=True)
    assert storage.info(Company.objects.get().embeddings_directory).weights == "fake-weights"


def test_folder_without_the_pictures_is_refused_and_nothing_is_imported(tmp_path: Path) -> None:
    flask(tmp_path / "flask")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommandError, match="check the folder"):
        import_company("acme", tmp_path / "flask", images=tmp_path / "empty")
    assert not Company.objects.exists()


def test_pictures_in_an_allowed_folder_become_those_of_the_company(tmp_path: Path, images: Path, settings: Any) -> None:
    settings.IMAGE_ROOTS = [tmp_path]
    flask(tmp_path / "flask")
    import_company("acme", tmp_path / "flask", images=images)
    assert Company.objects.get().image_directory == images


# In place, and refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("move", [False, True])
def test_import_in_place(client: Client, tmp_path: Path, settings: Any, move: bool) -> None:
    old = flask(settings.EMBEDDINGS_DIR / "acme")
    import_company("acme", settings.EMBEDDINGS_DIR / "acme", move=move)
    assert (settings.EMBEDDINGS_DIR / "acme").is_symlink()
    assert ids("acme") == old
    assert search(client).json()["total_results"] == 4


def test_company_that_has_an_index_keeps_it(tmp_path: Path, settings: Any) -> None:
    flask(tmp_path / "flask")
    publish(settings.EMBEDDINGS_DIR / "acme", some_records(2), some_vectors(2))
    with pytest.raises(CommandError, match="holds an index from before"):
        import_company("acme", tmp_path / "flask", move=True)
    assert len(storage.load(settings.EMBEDDINGS_DIR / "acme")) == 2
    assert (tmp_path / "flask").is_dir()
    assert not Company.objects.exists()


@pytest.mark.parametrize("started", [False, True])
def test_company_whose_build_is_active_is_refused(tmp_path: Path, started: bool) -> None:
    flask(tmp_path / "flask")
    build = Company.objects.create(name="acme").queue_build()
    if started:
        assert build.start()
    with pytest.raises(CommandError, match="build of acme is"):
        import_company("acme", tmp_path / "flask", move=True)
    assert not storage.has_index(Company.objects.get().embeddings_directory)
    assert (tmp_path / "flask").is_dir()


@pytest.mark.parametrize("name", ["../etc", "a b", ".hidden", "caf\u00e9"])
def test_name_that_no_company_can_have_is_refused(tmp_path: Path, settings: Any, name: str) -> None:
    flask(tmp_path / "flask")
    with pytest.raises(CommandError, match="letters"):
        import_company(name, tmp_path / "flask", move=True)
    assert (tmp_path / "flask").is_dir()
    assert not Company.objects.exists()


def test_name_that_differs_in_case_alone_is_refused(tmp_path: Path) -> None:
    Company.objects.create(name="ACME")
    flask(tmp_path / "flask")
    with pytest.raises(CommandError, match="taken"):
        import_company("acme", tmp_path / "flask")


@pytest.mark.parametrize("name", ["faiss_index.bin", "metadata.json", "index_info.json"])
def test_damaged_directory_is_refused_by_the_name_of_the_file(tmp_path: Path, name: str) -> None:
    flask(tmp_path / "flask")
    (tmp_path / "flask" / name).write_bytes(b"")
    with pytest.raises(CommandError, match=name):
        import_company("acme", tmp_path / "flask")
    assert not Company.objects.exists()


def test_directory_without_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="contains no index"):
        import_company("acme", tmp_path / "nothing")
    assert not Company.objects.exists()


def test_imported_index_never_shows_to_another_company(client: Client, tmp_path: Path) -> None:
    flask(tmp_path / "flask")
    import_company("acme", tmp_path / "flask")
    Company.objects.create(name="globex")
    assert search(client, "globex").status_code == 503


def test_pictures_put_before_an_import_are_not_hidden_by_an_index_that_counted_changes_of_its_own(
    tmp_path: Path, images: Path
) -> None:
    other = Company.objects.create(name="other", image_folder=str(images))
    put_image(other, "put.png", picture(GREEN).getvalue(), by=on_command_line())
    call_command("build_embeddings", company="other", input_dir=images, stdout=StringIO())
    acme = Company.objects.create(name="acme")
    put_image(acme, "mine.png", picture(RED).getvalue(), by=on_command_line())
    with pytest.raises(CommandError, match="were added or deleted one at a time"):
        import_company("acme", other.embeddings_directory.resolve())
    assert search_names(acme) == {"mine.png"}
