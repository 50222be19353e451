"""Ids that another program gave stay with their paths, whatever happens to the pictures or the index."""

from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.build.builder import BuildOptions, build_index
from search.engine.build.republish import republish
from search.engine.index.index import IndexInfo
from search.engine.index.records import ImageRecord
from tests.conftest import paint
from tests.support.fakes import BLUE, RED, FakeEmbedder
from tests.support.indexes import by_link

GIVEN = {"blue.png": "11111111-1111-4111-8111-111111111111", "red.png": "22222222-2222-4222-8222-222222222222"}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return an index whose ids are GIVEN, with its pictures in tmp_path/pictures."""
    paint(tmp_path / "pictures/blue.png", BLUE)
    paint(tmp_path / "pictures/red.png", RED)
    source = tmp_path / "theirs"
    with storage.IndexWriter(source) as writer:
        vectors = np.eye(2, 960, dtype=np.float32)
        writer.add(vectors, [ImageRecord(path, image_id) for path, image_id in GIVEN.items()])
        writer.publish(IndexInfo(total_images=0), by_link(source, keep=0))
    target = tmp_path / "acme"
    republish(storage.load(source), target, info=IndexInfo(total_images=0), publish=by_link(target, keep=0))
    return target


def build(target: Path) -> dict[str, str]:
    """Build anew and return the ids by path."""
    options = BuildOptions(max_pixels=1000, keep_generations=0)
    build_index(target.parent / "pictures", target, embedder=FakeEmbedder(), options=options)
    return {record.path: record.id for record in storage.load(target).records}


def test_a_picture_that_is_unreadable_for_a_while_gets_its_id_back(target: Path) -> None:
    picture = target.parent / "pictures/red.png"
    content = picture.read_bytes()
    picture.write_bytes(b"broken")
    assert build(target) == {"blue.png": GIVEN["blue.png"]}
    picture.write_bytes(content)
    assert build(target) == GIVEN


def test_a_picture_that_is_gone_for_a_while_gets_its_id_back(target: Path) -> None:
    (target.parent / "pictures/red.png").unlink()
    assert build(target) == {"blue.png": GIVEN["blue.png"]}
    paint(target.parent / "pictures/red.png", RED)
    assert build(target) == GIVEN


@pytest.mark.parametrize("damaged", ["embeddings.npy", "faiss_index.bin", "metadata.json", "index_info.json"])
def test_a_damaged_index_still_gives_the_ids(target: Path, damaged: str) -> None:
    (target.resolve() / damaged).write_bytes(b"")
    assert build(target) == GIVEN


def test_an_id_in_which_a_bit_has_changed_is_not_handed_on(target: Path) -> None:
    given = target / "given_ids.json"
    given.write_text(given.read_text().replace("11111111-1111-4111", "11111111-1111-4110"))
    assert build(target) == GIVEN
