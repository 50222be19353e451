"""Copies of weights that indexes were made with."""

import json
import os
from pathlib import Path

import pytest

from search.engine.errors import WeightsUnavailable
from search.engine.model.kept import drop, keep, kept_passports, kept_path
from search.engine.model.weights import BUILTIN, Weights, entry_path, find_weights


def weights(file: Path, content: bytes = b"weights") -> Weights:
    file.write_bytes(content)
    found = find_weights(str(file), hub=file.parent)
    assert found is not None
    return found


def find_copy(original: Weights, place: Path) -> Weights | None:
    return find_weights(str(kept_path(original.passport.fingerprint, place)), hub=place)


def test_a_copy_has_the_name_and_the_fingerprint_of_the_original_whatever_becomes_of_that(tmp_path: Path) -> None:
    original = weights(tmp_path / "mine.pth")
    keep(original, tmp_path / "kept")
    keep(original, tmp_path / "kept")
    (tmp_path / "mine.pth").write_bytes(b"others")
    copy = find_copy(original, tmp_path / "kept")
    assert copy is not None
    assert (copy.passport, copy.transform) == (original.passport, original.transform)
    assert kept_passports(tmp_path / "kept") == {original.passport.fingerprint: original.passport}


@pytest.mark.parametrize("name", ["IMAGENET1K_V2", BUILTIN])
def test_a_copy_of_weights_with_a_name_is_meant_for_the_same_pictures(tmp_path: Path, name: str) -> None:
    file = entry_path("IMAGENET1K_V2", hub=tmp_path)
    file.parent.mkdir()
    file.write_bytes(b"weights")
    original = find_weights(name, hub=tmp_path)
    assert original is not None
    keep(original, tmp_path / "kept")
    assert find_copy(original, tmp_path / "kept") == Weights(
        kept_path(original.passport.fingerprint, tmp_path / "kept"), original.passport, original.transform
    )


def test_weights_whose_file_is_another_by_now_are_not_kept(tmp_path: Path) -> None:
    original = weights(tmp_path / "mine.pth")
    (tmp_path / "mine.pth").write_bytes(b"others")
    with pytest.raises(WeightsUnavailable, match=r"mine\.pth \(\w+\) cannot be kept"):
        keep(original, tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_copy_that_was_changed_is_not_the_weights_it_is_named_after(tmp_path: Path) -> None:
    original = weights(tmp_path / "mine.pth")
    keep(original, tmp_path / "kept")
    kept_path(original.passport.fingerprint, tmp_path / "kept").write_bytes(b"damaged")
    copy = find_copy(original, tmp_path / "kept")
    assert copy is not None
    assert copy.passport.fingerprint != original.passport.fingerprint
    keep(original, tmp_path / "kept")
    copy = find_copy(original, tmp_path / "kept")
    assert copy is not None
    assert copy.passport == original.passport


@pytest.mark.parametrize("card", ["", "[]", "{}", '{"weights": "mine", "transform": {"resize_size": "wide"}}'])
def test_a_copy_with_a_damaged_card_is_none(tmp_path: Path, card: str) -> None:
    original = weights(tmp_path / "mine.pth")
    keep(original, tmp_path / "kept")
    kept_path(original.passport.fingerprint, tmp_path / "kept").with_suffix(".json").write_text(card)
    assert kept_passports(tmp_path / "kept") == {}
    keep(original, tmp_path / "kept")
    assert list(kept_passports(tmp_path / "kept")) == [original.passport.fingerprint]


def test_copies_that_nothing_needs_go_once_they_are_old(tmp_path: Path) -> None:
    needed, other = weights(tmp_path / "a.pth", b"a"), weights(tmp_path / "b.pth", b"b")
    place = tmp_path / "kept"
    for each in (needed, other):
        keep(each, place)
    (place / ".copying-killed").write_bytes(b"half")
    fingerprints = [each.passport.fingerprint for each in (needed, other)]
    assert drop(place, needed=fingerprints[:1], older_than=60) == []
    for file in place.iterdir():
        os.utime(file, (0, 0))
    assert drop(place, needed=fingerprints[:1], older_than=60) == fingerprints[1:]
    assert sorted(path.name for path in place.iterdir()) == [f"{fingerprints[0]}.json", f"{fingerprints[0]}.pth"]
    assert json.loads((place / f"{fingerprints[0]}.json").read_text())["weights"] == "a.pth"
