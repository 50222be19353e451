"""What the benchmarks run on: photographs, and vectors that are spread like those of photographs."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from search.companies import demo
from search.engine.index.index import IndexInfo
from search.engine.index.records import ImageRecord, image_id
from search.engine.storage import IndexWriter, publish_by_link
from search.engine.vectors import DIMENSION, Vectors

FOLDERS = {  # of an index that write_index writes, by the part of its pictures that they hold
    "half": "Half 0",
    "tenth": "Half 0/Tenth 0",
    "fortieth": "Half 0/Tenth 0/Fortieth 00",
}

_BLOCK = 8192


def photographs(scratch: Path, given: Path | None) -> list[Path]:
    """Return picture files: those below the folder given, or else the demo's drawings."""
    if given is None or not given.is_dir():
        given = scratch / "drawings"
        demo.draw_demo_pictures(given)
    return sorted(given.rglob("*.jpg"))


def resized(photos: list[Path], folder: Path, *, count: int, size: tuple[int, int]) -> Path:
    """Write count JPEGs of this size, from the photographs in turn, with the grain of a camera; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    grain = np.random.default_rng(0).integers(-6, 7, (512, 512, 3))
    tiles = np.tile(grain, (size[1] // 512 + 1, size[0] // 512 + 1, 1))[: size[1], : size[0]]
    for number in range(count):
        with Image.open(photos[number % len(photos)]) as photo:
            pixels = np.asarray(photo.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        grained = (pixels + tiles).clip(0, 255).astype(np.uint8)
        Image.fromarray(grained).save(folder / f"{number:05}.jpg", quality=90)
    return folder


def vectors_like(real: Vectors, count: int, *, seed: int) -> Vectors:
    """Return unit vectors, float32 [count, 960], with the spread of real embeddings.

    Each lies between two real ones, nearer to the first, plus Gaussian noise with the covariance of the real ones
    (their principal axes and variances, at 0.6 of the deviation), held above their least value as the network's
    outputs are. Uniform noise would have no neighbours worth finding, and copies would make it too easy.
    """
    rng = np.random.default_rng(seed)
    _, deviations, axes = np.linalg.svd(real - real.mean(axis=0), full_matrices=False)
    scales = 0.6 * deviations / np.sqrt(len(real))
    made = np.empty((count, DIMENSION), np.float32)
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        first, second = real[rng.integers(len(real), size=(2, size))]
        share = rng.uniform(0, 0.5, (size, 1)).astype(np.float32)
        noise = (rng.standard_normal((size, len(scales)), dtype=np.float32) * scales.astype(np.float32)) @ axes
        block = np.maximum(first * (1 - share) + second * share + noise, real.min())
        made[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return made


def write_index(vectors: Vectors, directory: Path, *, weights: str, fingerprint: str) -> None:
    """Publish an index of vectors, in FOLDERS and others of their sizes."""
    company = directory.name
    with IndexWriter(directory, embeddings_npy=False) as writer:
        for start in range(0, len(vectors), _BLOCK):
            block = vectors[start : start + _BLOCK]
            paths = [_path(row, len(vectors)) for row in range(start, start + len(block))]
            writer.add(block, [ImageRecord(path, image_id(company, path)) for path in paths])
        info = IndexInfo(total_images=0, weights=weights, fingerprint=fingerprint)
        writer.publish(info, partial(publish_by_link, directory, keep=0))


def _path(row: int, count: int) -> str:
    part = 40 * row // count
    return f"Half {part // 20}/Tenth {part // 4}/Fortieth {part:02}/picture {row:07}.jpg"
