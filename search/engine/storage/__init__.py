"""Indexes on disk: what the rest of the project asks of them. Where things lie is in layout.py."""

from search.engine.storage.checksums import damaged_files, has_checksums, require_undamaged
from search.engine.storage.generations import Generation, erase, generations, remove, roll_back, size_on_disk
from search.engine.storage.layout import SIGNATURE, workspace
from search.engine.storage.reading import given_ids, has_index, info, load, open_files, version
from search.engine.storage.writing import Draft, IndexWriter, Published, info_entries, keep_ids

__all__ = [
    "SIGNATURE",
    "Draft",
    "Generation",
    "IndexWriter",
    "Published",
    "damaged_files",
    "erase",
    "generations",
    "given_ids",
    "has_checksums",
    "has_index",
    "info",
    "info_entries",
    "keep_ids",
    "load",
    "open_files",
    "remove",
    "require_undamaged",
    "roll_back",
    "size_on_disk",
    "version",
    "workspace",
]
