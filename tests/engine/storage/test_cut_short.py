"""A file that is cut short under a process which has loaded it: the process goes on, and says so or is right."""

import multiprocessing
import os
import shutil
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from search.engine import storage
from search.engine.errors import IndexCorrupt
from search.engine.index import calibration, coarse
from search.engine.index.index import ImageIndex
from search.engine.storage.given import given_id
from tests.support.indexes import INFO, by_link, clustered, some_hashes, some_records, some_signatures

COUNT = 1_000
VECTORS, RECORDS = clustered(COUNT, seed=1), sorted(some_records(COUNT), key=lambda record: record.path)
FILES = [
    "faiss_index.bin",
    "metadata.json",
    "metadata_offsets.npy",
    "id_keys.npy",
    "signatures.npy",
    "perceptual_hashes.npy",
    "coarse_index.bin",
    "given_ids.json",
    "index_info.json",
]

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the files of an index with codes lie."""
    directory = tmp_path_factory.mktemp("published") / "acme"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coarse, "MIN_IMAGES", 1_000)
        patch.setattr(calibration, "_QUERIES", 50)
        with storage.IndexWriter(directory) as writer:
            writer.add(VECTORS, RECORDS, some_signatures(COUNT), hashes=some_hashes(COUNT))
            writer.publish(INFO, by_link(directory), given_ids={"gone.png": "theirs"})
    return directory.resolve()


def ask(directory: Path, index: ImageIndex) -> list[Any]:
    """Return answers that need every file, and in the place of one that is refused the refusal."""
    answers = []
    for question in (
        lambda: [match.image for match in index.search(VECTORS[7], 5)],
        lambda: [match.image for match in index.search(VECTORS[7], 5, location="Abstract")],
        lambda: index.page(990, COUNT),
        lambda: index.records.count_by_location(),
        lambda: list(index.named("99")),
        lambda: index.find_path(RECORDS[999].path),
        lambda: index.find_vector(RECORDS[998].id) is not None,
        lambda: index.signatures["size"].tolist(),
        lambda: None if index.hashes is None else index.hashes.tolist(),
        lambda: given_id(directory, "gone.png"),
    ):
        try:
            answers.append(question())
        except IndexCorrupt as error:
            answers.append(str(error))
    return answers


def _load_and_ask(directory: Path, here: Connection) -> None:
    index = storage.load(directory)
    here.send("loaded")
    here.recv()
    here.send(ask(directory, index))


@pytest.mark.slow
@pytest.mark.parametrize("length", [0, 4097])
@pytest.mark.parametrize("name", FILES)
def test_a_process_outlives_a_file_that_is_cut_short(published: Path, tmp_path: Path, name: str, length: int) -> None:
    directory = Path(shutil.copytree(published, tmp_path / "acme"))
    sound = ask(directory, storage.load(directory))
    here, there = _processes.Pipe()
    process = _processes.Process(target=_load_and_ask, args=(directory, there), daemon=True)
    process.start()
    assert here.poll(30)
    here.recv()
    os.truncate(directory / name, min(length, (directory / name).stat().st_size // 2))
    here.send("go on")
    assert here.poll(30)
    answers = here.recv()
    process.join(30)
    assert process.exitcode == 0
    for answer, right in zip(answers, sound, strict=True):
        assert answer == right or name in str(answer)
    if name == "metadata.json":
        assert "metadata.json ends before byte" in answers[3]
