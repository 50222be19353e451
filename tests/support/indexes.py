"""Indexes for tests: ours, those of the Flask service, and what lies around them."""

import hashlib
import json
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from search.engine import storage
from search.engine.index.index import IndexInfo
from search.engine.index.records import ImageRecord
from search.engine.vectors import DIMENSION, Vectors, unit_length

OUR_FILES = [
    "faiss_index.bin",
    "embeddings.npy",
    "metadata.json",
    "metadata_offsets.npy",
    "id_keys.npy",
    "signatures.npy",
    "perceptual_hashes.npy",
    "index_info.json",
]
COPY = "embeddings.npy"  # that nobody reads
FLASK_FILES = ["faiss_index.bin", "embeddings.npy", "metadata.json", "index_info.json"]
ODD_NAMES = [
    ('a "quoted" name.png', "", 'a "quoted" name'),
    ("back\\slash's/{}[],.png", "back\\slash's", "{}[],"),
    ("new\nline/tab\t.png", "new\nline", "tab\t"),
    ("\U0001f600/caf\u00e9 \u4e2d\u6587.webp", "\U0001f600", "caf\u00e9 \u4e2d\u6587"),
    ("line\u2028separator\u2029and\u0085next.gif", "", "line\u2028separator\u2029and\u0085next"),
    ("one.two.three.tar.png", "", "one.two.three.tar"),
    ("deep/deeper/deepest/x.jpeg", "deep/deeper/deepest", "x"),
    (" leading and trailing .png", "", " leading and trailing "),
    ("\x01\x7f\ufeff.bmp", "", "\x01\x7f\ufeff"),
]
INFO = IndexInfo(0, weights="test-weights", fingerprint="a" * 64)


def some_vectors(count: int, seed: int = 0) -> Vectors:
    return unit_length(np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32))


def clustered(count: int, *, seed: int) -> Vectors:
    """Return unit vectors, without negative numbers as the network's, around 40 centres."""
    centres = np.random.default_rng(0).random((40, DIMENSION)) ** 3
    rng = np.random.default_rng(seed)
    return unit_length((centres[rng.integers(40, size=count)] + rng.random((count, DIMENSION)) ** 3).astype(np.float32))


def some_records(count: int, start: str = "Abstract/") -> list[ImageRecord]:
    return [
        ImageRecord(f"{start}{row:03}.png", str(uuid.uuid5(uuid.NAMESPACE_URL, f"{start}{row}")))
        for row in range(count)
    ]


def some_signatures(count: int) -> Any:
    signatures = np.zeros(count, storage.SIGNATURE)
    signatures["size"], signatures["mtime_ns"] = np.arange(count) + 1000, 1_700_000_000_000_000_000
    return signatures


def some_hashes(count: int) -> Any:
    return np.random.default_rng(count).integers(1, 2**64, size=count, dtype=np.uint64)


def by_link(directory: Path, *, keep: int = 2) -> storage.Publish:
    """Return what publishes into a directory that no company's row speaks for."""
    return partial(storage.publish_by_link, directory, keep=keep)


def publish(
    directory: Path,
    records: Sequence[ImageRecord],
    vectors: Vectors,
    *,
    keep: int = 2,
) -> None:
    with storage.IndexWriter(directory) as writer:
        writer.add(vectors, records, some_signatures(len(records)), hashes=some_hashes(len(records)))
        writer.publish(INFO, by_link(directory, keep=keep))


def flask_directory(
    directory: Path, vectors: Vectors, paths: Sequence[str], *, without: Sequence[str] = (), embeddings: Any = None
) -> list[str]:
    """Make an index as the Flask service did, without our writer; return the random ids.

    embeddings: what embeddings.npy holds, where that is not what FAISS holds.
    """
    directory.mkdir(parents=True)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    faiss.write_index(flat, str(directory / "faiss_index.bin"))
    np.save(directory / "embeddings.npy", vectors if embeddings is None else embeddings)
    ids = [str(uuid.uuid4()) for _ in paths]
    metadata = [
        {
            "fullPath": path,
            "id": id_,
            "location": str(Path(path).parent).strip("."),
            "name": Path(path).stem,
            "type": "file",
        }
        for path, id_ in zip(paths, ids, strict=True)
    ]
    (directory / "metadata.json").write_text(json.dumps(metadata, indent=2))
    index_info = {
        "total_images": len(paths),
        "embedding_dimension": vectors.shape[1],
        "model": "MobileNetV3-Large",
        "timestamp": "2025-10-27T12:00:00.000Z",
    }
    (directory / "index_info.json").write_text(json.dumps(index_info, indent=2))
    for name in without:
        (directory / name).unlink()
    return ids


def generations(directory: Path) -> list[Path]:
    return [entry for entry in hidden(directory) if not entry.name.startswith(".")]


def drafts(directory: Path) -> list[Path]:
    return [entry for entry in hidden(directory) if entry.name.startswith(".writing-")]


def hidden(directory: Path) -> list[Path]:
    return sorted(hidden_home(directory).iterdir())


def hidden_home(directory: Path) -> Path:
    return directory.parent / ".generations" / directory.name


def write_sums_anew(generation: Path) -> None:
    """Let the checksums be those of the files as they are now: somebody has made them so."""
    names = sorted(file.name for file in generation.iterdir() if file.name not in ("SHA256SUMS", "company.json"))
    lines = [f"{hashlib.sha256((generation / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (generation / "SHA256SUMS").write_text("".join(lines))


def forget_preparation(directory: Path) -> None:
    """Let the index be one of the releases that did not record how they prepared pictures."""
    path = directory / "index_info.json"
    entries = json.loads(path.read_text())
    del entries["preparation"]
    path.write_text(json.dumps(entries))
    write_sums_anew(directory)
