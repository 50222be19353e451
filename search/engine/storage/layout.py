"""An index on disk; the only file that knows file names.

    <parent>/AOF                                     symbolic link to the published generation
    <parent>/.generations/AOF/<generation>/          never changes once it has this name
        faiss_index.bin        IndexFlatIP, as faiss.write_index lays it out
        embeddings.npy         float32 [N, 960], the same vectors
        metadata.json          list in index order, one entry a line
        metadata_offsets.npy   int64 [N + 1], where each line of metadata.json begins
        signatures.npy         SIGNATURE [N], what the picture files looked like; missing where nobody knows
        id_keys.npy            records.ID_KEY [N], sorted: finds a row by its id
        coarse_index.bin       codes of the first pass, see coarse.py; missing where the exact scan serves
        given_ids.json         {path: id} of the ids that no path gives, those of pictures now missing as well
        index_info.json        IndexInfo; its "format" says that the files are ours
        SHA256SUMS             of all the others, for `sha256sum --check` as well; since format 2
    <parent>/.generations/AOF/.writing-<hex>/        a generation that is being written
    <parent>/.generations/AOF/.building/             what unfinished builds have embedded, see workspace.py

A plain directory with the first four files (those of the Flask service, which lack the rest) is an index too; it
becomes a generation when the first one of ours is published in its place.
"""

import struct
from pathlib import Path

import numpy as np

FAISS_INDEX = "faiss_index.bin"
EMBEDDINGS = "embeddings.npy"
METADATA = "metadata.json"
OFFSETS = "metadata_offsets.npy"
SIGNATURES = "signatures.npy"
ID_KEYS = "id_keys.npy"
CODES = "coarse_index.bin"
GIVEN_IDS = "given_ids.json"
INFO = "index_info.json"
SUMS = "SHA256SUMS"
PARTS = frozenset({FAISS_INDEX, EMBEDDINGS, METADATA, OFFSETS, SIGNATURES, ID_KEYS, CODES, GIVEN_IDS, INFO, SUMS})

GENERATIONS = ".generations"
FORMAT = 2
LOCK = ".lock"
GENERATION_NAME = "%Y%m%dT%H%M%S%f"  # of a generation, when it was published, before a random rest

SIGNATURE = np.dtype([("size", "<i8"), ("mtime_ns", "<i8"), ("sha256", "u1", (32,))])

METADATA_START = b"[\n"
METADATA_END = b"\n]\n"

# IndexFlatIP in faiss/impl/index_write.cpp: fourcc, dimension, number of vectors, two unused numbers, trained, metric,
# then how many floats follow, then the floats.
FLAT_HEADER = struct.Struct("<4siqqq?iQ")
FLAT_IP = b"IxFI"

NOT_WORTH_KEEPING = frozenset({".gitkeep", ".DS_Store"})


def home(directory: Path) -> Path:
    return directory.parent / GENERATIONS / directory.name


def complete_generations(directory: Path) -> list[Path]:
    """Return the complete generations, oldest first."""
    try:
        return sorted(entry for entry in home(directory).iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def resolve(directory: Path) -> Path:
    """Return the directory that holds the files now."""
    try:
        return directory.parent / directory.readlink()
    except OSError:
        pass
    if directory.is_dir():
        return directory
    # Killed between moving a plain directory away and putting the link in its place: the newest generation is whole.
    complete = complete_generations(directory)
    return complete[-1] if complete else directory


def is_published_link(directory: Path) -> bool:
    return directory.is_symlink() and directory.readlink().parts[:1] == (GENERATIONS,)


def workspace(directory: Path) -> Path:
    """Return where builds of the index in directory keep what they have embedded so far."""
    return home(directory) / ".building"
