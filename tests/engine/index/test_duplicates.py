"""Which pictures show the same: rule by rule, with vectors and hashes that each test makes."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from search.engine import storage
from search.engine.errors import ImageUnreadable
from search.engine.index import self_search
from search.engine.index.duplicate_search import find_pairs
from search.engine.index.duplicates import ALL, QUICK, DuplicatePairs, Level, Progress
from search.engine.index.groups import Group, groups, is_seen
from search.engine.index.index import ImageIndex, LiveImage
from search.engine.index.quick_test import QuickTest
from search.engine.index.records import ImageRecord
from search.engine.vectors import DIMENSION, Vector, Vectors, unit_length
from tests.support.drawing import scene
from tests.support.indexes import INFO, by_link, some_vectors

Made = Callable[..., ImageIndex]


def like(vector: Vector, cosine: float, seed: int = 0) -> Vector:
    """Return a unit vector of this cosine with vector."""
    other = np.random.default_rng(seed).normal(size=DIMENSION)
    other -= (other @ vector) * vector
    other /= np.linalg.norm(other)
    return np.asarray(cosine * vector + np.sqrt(1 - cosine**2) * other, np.float32)


def flipped(hashed: int, bits: int) -> int:
    return hashed ^ ((1 << bits) - 1)


@pytest.fixture
def make(tmp_path: Path) -> Made:
    """Return what publishes an index: vectors, hashes, contents and file sizes by path."""

    def make(
        vectors: dict[str, Vector],
        hashes: dict[str, int] | None = None,
        contents: dict[str, int] | None = None,
        sizes: dict[str, int] | None = None,
    ) -> ImageIndex:
        paths = sorted(vectors)
        rng = np.random.default_rng(5)
        signatures = np.zeros(len(paths), storage.SIGNATURE)
        signatures["sha256"] = rng.integers(1, 256, size=(len(paths), 32))
        for row, path in enumerate(paths):
            signatures["size"][row] = (sizes or {}).get(path, 0)
            if path in (contents or {}):
                signatures["sha256"][row] = (contents or {})[path]
        given = rng.integers(1, 2**64, size=len(paths), dtype=np.uint64).tolist()
        chosen = [(hashes or {}).get(path, other) for path, other in zip(paths, given, strict=True)]
        with storage.IndexWriter(tmp_path / "acme") as writer:
            writer.add(
                unit_length(np.array([vectors[path] for path in paths])),
                [record(path) for path in paths],
                signatures,
                hashes=np.array(chosen, np.uint64),
            )
            writer.publish(INFO, by_link(tmp_path / "acme"))
        return storage.load(tmp_path / "acme")

    return make


def record(path: str) -> ImageRecord:
    return ImageRecord(path, str(uuid.uuid5(uuid.NAMESPACE_URL, path)))


def refuse(picture: ImageRecord) -> Image.Image:
    raise AssertionError(picture)


def shown(found: list[Group]) -> dict[str, dict[str, str]]:
    """Return the levels of the members by path, by the path of their leader."""
    return {group.leader.path: {each.image.path: each.level.word for each in group.members} for group in found}


def quick(index: ImageIndex, known: DuplicatePairs | None = None) -> DuplicatePairs:
    return find_pairs(index, open_picture=refuse, levels=QUICK, known=known)


def unlike(count: int) -> Vectors:
    return some_vectors(count, seed=3)


# Exact and same -----------------------------------------------------------------------------------------------------


def test_files_of_one_content_are_exact_copies(make: Made) -> None:
    a, other = unlike(2)
    index = make({"a.png": a, "b.png": a, "c.png": other}, contents={"a.png": 7, "b.png": 7})
    assert shown(groups(quick(index), index)) == {"a.png": {"b.png": "exact"}}


@pytest.mark.parametrize(("cosine", "found"), [(0.99, True), (0.98, False)])
def test_pictures_are_the_same_from_a_cosine_of_0_985_on(make: Made, cosine: float, found: bool) -> None:
    a, _ = unlike(2)
    index = make({"a.png": a, "b.png": like(a, cosine)})
    pairs = quick(index)
    assert shown(groups(pairs, index)) == ({"a.png": {"b.png": "same"}} if found else {})
    if found:
        assert groups(pairs, index)[0].members[0].score == pytest.approx(cosine, abs=1e-5)


def test_the_largest_file_of_a_group_leads_it(make: Made) -> None:
    a, _ = unlike(2)
    index = make({"half.png": a, "p1.png": like(a, 0.99)}, sizes={"half.png": 4_000, "p1.png": 90_000})
    assert shown(groups(quick(index), index)) == {"p1.png": {"half.png": "same"}}


@pytest.mark.parametrize(("bits", "cosine", "found"), [(4, 0.51, True), (5, 0.51, False), (4, 0.49, False)])
def test_pictures_are_the_same_where_hashes_and_vectors_agree(
    make: Made, bits: int, cosine: float, found: bool
) -> None:
    a, _ = unlike(2)
    index = make({"a.png": a, "b.png": like(a, cosine)}, {"a.png": 12345, "b.png": flipped(12345, bits)})
    assert bool(groups(quick(index), index)) == found
    assert QuickTest(index).show_the_same(record("a.png").id, record("b.png").id) == found


def test_levels_that_are_asked_for_count_alone(make: Made) -> None:
    a, _ = unlike(2)
    index = make({"a.png": a, "b.png": a, "c.png": like(a, 0.99)}, contents={"a.png": 7, "b.png": 7})
    pairs = quick(index)
    assert shown(groups(pairs, index, levels={Level.EXACT})) == {"a.png": {"b.png": "exact"}}
    assert shown(groups(pairs, index, levels={Level.SAME})) == {"c.png": {"a.png": "same", "b.png": "same"}}
    assert shown(groups(pairs, index)) == {"a.png": {"b.png": "exact", "c.png": "same"}}
    assert (pairs.count({Level.EXACT}), pairs.count({Level.SAME})) == (1, 1)


def test_blank_pictures_are_duplicates_of_nothing(make: Made) -> None:
    a, _ = unlike(2)
    index = make({"a.png": a, "b.png": a, "c.png": a}, {"a.png": 0, "b.png": 0})
    assert groups(quick(index), index) == []


def test_an_index_without_hashes_goes_by_vectors(make: Made, tmp_path: Path) -> None:
    a, _ = unlike(2)
    make({"a.png": a, "b.png": like(a, 0.99)})
    (tmp_path / "acme" / "perceptual_hashes.npy").unlink()
    index = storage.load(tmp_path / "acme")
    assert shown(groups(quick(index), index)) == {"a.png": {"b.png": "same"}}


# Groups -------------------------------------------------------------------------------------------------------------


def chain(count: int) -> dict[str, Vector]:
    """Return pictures of which each is the same as the next one, and as no other."""
    angle = np.arccos(0.986)
    one, other = np.linalg.qr(np.random.default_rng(0).normal(size=(DIMENSION, 2)))[0].T
    return {
        f"{number:02}.png": np.asarray(np.cos(number * angle) * one + np.sin(number * angle) * other, np.float32)
        for number in range(count)
    }


def test_a_chain_of_pairs_is_not_one_group(make: Made) -> None:
    index = make(chain(9))
    found = groups(quick(index), index)
    assert len(found) == 4
    assert sum(1 + len(group.members) for group in found) == 9
    vectors = {each.path: index.find_vector(each.id) for each in index.records}
    for group in found:
        for member in group.members:
            assert float(vectors[group.leader.path] @ vectors[member.image.path]) >= 0.985  # type: ignore[operator]


def test_pictures_said_to_be_no_duplicates_are_in_no_group_together(make: Made) -> None:
    a, _ = unlike(2)
    index = make({f"{number}.png": like(a, 0.999, seed=number) for number in range(4)})
    pairs = quick(index)
    leader = groups(pairs, index)[0].leader
    (other, *_) = (member.image for member in groups(pairs, index)[0].members)
    found = groups(pairs, index, apart={(other.id, leader.id)})
    assert len(found) == 1
    assert len(found[0].members) == 2
    assert not {leader.path, other.path} <= {found[0].leader.path, *(each.image.path for each in found[0].members)}


@pytest.mark.slow
@pytest.mark.parametrize("alike", ["equal vectors", "near vectors", "equal hashes"])
def test_thousands_alike_are_one_group_and_not_millions_of_pairs(make: Made, alike: str) -> None:
    a, _ = unlike(2)
    if alike == "near vectors":
        noise = np.random.default_rng(1).normal(size=(1500, DIMENSION)).astype(np.float32)
        vectors = unit_length(a + 0.002 * noise)
    elif alike == "equal vectors":
        vectors = np.repeat(a[np.newaxis], 1500, axis=0)
    else:
        noise = np.random.default_rng(1).normal(size=(1500, DIMENSION)).astype(np.float32)
        vectors = unit_length(a + 0.02 * noise)
    paths = [f"{number:04}.png" for number in range(1500)]
    hashes = dict.fromkeys(paths, 77) if alike == "equal hashes" else {}
    index = make(dict(zip(paths, vectors, strict=True)), hashes)
    pairs = quick(index)
    assert len(pairs.pairs) + len(pairs.waiting) < 40 * 1500
    (group,) = groups(pairs, index)
    assert len(group.members) == 1499


# As of now ----------------------------------------------------------------------------------------------------------


def test_pictures_deleted_or_replaced_since_then_are_in_no_group(make: Made) -> None:
    a, b = unlike(2)
    index = make({f"{number}.png": a for number in range(4)})
    pairs = quick(index)
    now = index.with_changes([LiveImage(record("0.png"), None), LiveImage(record("3.png"), b, 9)])
    assert shown(groups(pairs, now)) == {"1.png": {"2.png": "same"}}
    assert not is_seen(pairs, now, record("3.png").id)
    assert is_seen(pairs, now, record("1.png").id)


def test_only_new_pictures_are_compared_afterwards(make: Made, tmp_path: Path) -> None:
    a, b, c = unlike(3)
    pairs = quick(make({"a.png": a, "b.png": b, "c.png": c}))
    totals: list[int] = []
    index = make({"a.png": a, "b.png": b, "d.png": like(a, 0.99)}).with_changes(
        [LiveImage(record("e.png"), like(b, 0.99), 5)]
    )
    again = find_pairs(
        index, open_picture=refuse, levels=QUICK, known=pairs, report=lambda progress: totals.append(progress.total)
    )
    assert shown(groups(again, index)) == {"a.png": {"d.png": "same"}, "b.png": {"e.png": "same"}}
    assert len(quick(index, again).pairs) == 2


def test_the_copies_of_a_picture_that_is_gone_are_compared_anew(make: Made) -> None:
    a, _ = unlike(2)
    pairs = quick(make({"a.png": a, "b.png": a, "c.png": a, "d.png": like(a, 0.99)}))
    index = make({"b.png": a, "c.png": a, "d.png": like(a, 0.99)})
    expected = {"b.png": {"c.png": "same", "d.png": "same"}}
    assert shown(groups(pairs, index)) == expected
    assert shown(groups(quick(index, pairs), index)) == expected


def test_what_another_model_has_found_is_not_known(make: Made) -> None:
    a, _ = unlike(2)
    index = make({"a.png": a, "b.png": a})
    other = DuplicatePairs("another", seen=quick(index).seen)
    assert len(quick(index, other).pairs) == 1


@pytest.mark.parametrize("few", [10**9, 1])
def test_a_search_that_is_stopped_goes_on_where_it_was(make: Made, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(self_search, "_CHUNK", 100)
    monkeypatch.setattr(self_search, "_FEW_PRODUCTS", few)
    monkeypatch.setattr("search.engine.index.duplicate_search._BEAT_SECONDS", 0)
    base = some_vectors(300, seed=8)
    vectors = {f"{number:03}.png": base[number] for number in range(300)}
    vectors |= {f"{number:03}-copy.png": like(base[number], 0.99, number) for number in range(300)}
    index = make(vectors)
    kept: list[DuplicatePairs] = []

    def stop(progress: Progress) -> None:
        if progress.done >= 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_pairs(index, open_picture=refuse, levels=QUICK, report=stop, keep=kept.append)
    assert 0 < len(kept[-1].pairs) < 300
    done: list[int] = []
    pairs = find_pairs(
        index,
        open_picture=refuse,
        levels=QUICK,
        known=kept[-1],
        report=lambda progress: done.append(progress.total),
    )
    assert done[-1] <= 400
    assert len(groups(pairs, index)) == 300
    assert len(pairs.pairs) == 300


# Edited -------------------------------------------------------------------------------------------------------------

SCENE = scene(1)
EDITED: dict[str, Image.Image] = {
    "cropped": SCENE.crop((60, 40, 330, 260)),
    "mirrored": ImageOps.mirror(SCENE),
    "framed": ImageOps.expand(SCENE, 40, "white"),
    "stretched": SCENE.resize((500, 300)),
    "turned": SCENE.rotate(6, fillcolor="white"),
    "upside down": SCENE.rotate(180),
    "smaller": SCENE.resize((150, 112)),
}


def pictures(drawn: dict[str, Image.Image]) -> Callable[[ImageRecord], Image.Image]:
    return lambda image: drawn[image.path]


@pytest.mark.parametrize("edit", EDITED)
def test_a_second_look_finds_edited_pictures(make: Made, edit: str) -> None:
    a, _ = unlike(2)
    index = make({"a.png": a, "b.png": like(a, 0.86)})
    pairs = find_pairs(index, open_picture=pictures({"a.png": SCENE, "b.png": EDITED[edit]}))
    assert shown(groups(pairs, index)) == {"a.png": {"b.png": "edited"}}
    assert (pairs.looks, len(pairs.waiting)) == (1, 0)
    assert groups(pairs, index, levels=QUICK) == []


@pytest.mark.parametrize("cosine", [0.86, 0.96])
def test_a_second_look_refuses_other_pictures(make: Made, cosine: float) -> None:
    a, _ = unlike(2)
    index = make({"a.png": a, "b.png": like(a, cosine)})
    pairs = find_pairs(index, open_picture=pictures({"a.png": SCENE, "b.png": scene(2)}))
    assert (groups(pairs, index), pairs.looks) == ([], 1)
    assert find_pairs(index, open_picture=refuse, known=pairs).looks == 1


def test_hashes_that_agree_somewhat_are_worth_a_look(make: Made) -> None:
    a, _ = unlike(2)
    index = make({"a.png": a, "b.png": like(a, 0.6)}, {"a.png": 12345, "b.png": flipped(12345, 10)})
    pairs = find_pairs(index, open_picture=pictures({"a.png": SCENE, "b.png": EDITED["smaller"]}))
    assert shown(groups(pairs, index)) == {"a.png": {"b.png": "edited"}}


def test_what_is_worth_a_look_waits_for_a_search_that_looks(make: Made) -> None:
    a, _ = unlike(2)
    index = make({"a.png": a, "b.png": like(a, 0.9)})
    pairs = quick(index)
    assert len(pairs.waiting) == 1
    drawn = {"a.png": SCENE, "b.png": EDITED["cropped"]}
    assert len(groups(find_pairs(index, open_picture=pictures(drawn), known=pairs), index)) == 1


def test_a_picture_that_cannot_be_read_is_counted(make: Made) -> None:
    a, _ = unlike(2)
    index = make({"a.png": a, "b.png": like(a, 0.9)})

    def gone(image: ImageRecord) -> Image.Image:
        raise ImageUnreadable("gone")

    pairs = find_pairs(index, open_picture=gone)
    assert (pairs.unreadable, pairs.looks, groups(pairs, index)) == (1, 1, [])


def test_the_most_alike_are_looked_at_where_not_all_can_be(make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.engine.index.duplicate_search.MAX_LOOKS", 1)
    a, b = unlike(2)
    index = make({"a.png": a, "a2.png": like(a, 0.9), "b.png": b, "b2.png": like(b, 0.95)})
    drawn = {"a.png": SCENE, "a2.png": SCENE, "b.png": scene(3), "b2.png": scene(3)}
    pairs = find_pairs(index, open_picture=pictures(drawn))
    assert shown(groups(pairs, index)) == {"b.png": {"b2.png": "edited"}}
    assert (pairs.looks, pairs.looks_left_out) == (1, 1)


def test_all_levels_are_the_quick_ones_and_edited() -> None:
    levels: Any = [level.word for level in sorted(ALL)]
    assert levels == ["exact", "same", "edited"]
