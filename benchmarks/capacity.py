"""How far one machine goes, by the parts of an index.

    python -m benchmarks.capacity INDEX [--times 10] [--codes]

INDEX is the directory of one that has codes, such as `make bench` makes. --times: its codes are repeated so often, with
rows of their own, to tell what a scan of more pictures costs. --codes: they are made anew, too. CPU is what to look at:
wall time tells what else the machine does.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np


def measure(directory: Path, *, queries: np.ndarray) -> dict[str, Any]:
    """Load the index; search it after its files were dropped from memory, and once more."""
    from search.engine import storage

    _drop(directory)
    before = _anonymous()
    index, load = _timed(lambda: storage.load(directory))
    result: dict[str, Any] = {"pictures": len(index), "load": load, "memory_mb": (_anonymous() - before) / 1e6}
    result["bytes_a_picture"] = {
        file.name: round(file.stat().st_size / len(index), 1) for file in sorted(directory.iterdir())
    }
    _drop(directory)
    for name in ("cold", "warm"):
        read = _bytes_read()
        searches = [_timed(partial(index.search, query, 10))[1] for query in queries]
        read = _bytes_read() - read
        result[name] = _summary(searches) | {"kb_read_a_search": read / len(queries) / 1e3}
    return result


def codes_alone(directory: Path, *, queries: np.ndarray, times: int, scratch: Path) -> dict[str, Any]:
    """Repeat the codes, and load and scan as many as these."""

    from search.engine import storage
    from search.engine.index.coarse import read_coarse

    index = storage.load(directory)
    assert index.coarse is not None
    codes = _repeated(index.coarse.codes, times)
    images = codes.ntotal
    file = scratch / "codes.bin"
    faiss.write_index(codes, str(file))
    del codes
    before = _anonymous()
    many, load = _timed(lambda: read_coarse(file, index.coarse.search, images=images))
    memory = (_anonymous() - before) / 1e6
    file.unlink()
    result = {"pictures": images, "load": load, "memory_mb": memory}
    for name, proposing in (("once", index.coarse), ("repeated", many)):
        for top_k in (10, 50):
            took = [_timed(partial(proposing.propose, query, top_k))[1] for query in queries]
            result[f"best_{top_k}_{name}"] = _summary(took)
    return result


def _repeated(codes: Any, times: int) -> Any:
    """Return a copy whose lists hold their whole blocks of codes so often, and lead to rows counted anew."""
    codes = faiss.clone_index(codes)
    lists: Any = faiss.downcast_index(codes.index)
    stored: Any = faiss.downcast_InvertedLists(lists.invlists)
    codes.ntotal = lists.ntotal = 0
    for each in range(stored.nlist):
        blocks = stored.list_size(each) // stored.n_per_block
        once = faiss.rev_swig_ptr(stored.get_codes(each), blocks * stored.block_size).copy()
        size = times * blocks * stored.n_per_block
        stored.resize(each, size)
        faiss.rev_swig_ptr(stored.get_codes(each), times * len(once))[:] = np.tile(once, times)
        faiss.rev_swig_ptr(stored.get_ids(each), size)[:] = np.arange(lists.ntotal, lists.ntotal + size)
        codes.ntotal = lists.ntotal = lists.ntotal + size
    return codes


def making_codes(directory: Path) -> dict[str, Any]:
    from search.engine import storage
    from search.engine.index.coarse import build_coarse

    index = storage.load(directory)
    made, seconds = _timed(lambda: build_coarse(index.vectors))
    return {"pictures": len(index), **seconds, "search": str(made and made.search)}


def _timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def _summary(times: list[dict[str, float]]) -> dict[str, float]:
    return {f"{kind[:-2]}_ms": 1e3 * float(np.median([each[kind] for each in times])) for kind in ("cpu_s", "wall_s")}


def _drop(directory: Path) -> None:
    """Let the kernel forget what it holds of the files."""
    for file in directory.iterdir():
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _anonymous() -> int:
    """Return the bytes of memory that are this process's alone, not pages of files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def _bytes_read() -> int:
    return 512 * resource.getrusage(resource.RUSAGE_SELF).ru_inblock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--codes", action="store_true")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp"))
    options = parser.parse_args()
    directory = options.index.resolve()
    from search.engine import storage

    faiss.omp_set_num_threads(1)
    queries = _queries(storage.load(directory).vectors, options.queries)
    result = {"index": measure(directory, queries=queries)}
    if options.times > 1:
        result["repeated"] = codes_alone(directory, queries=queries, times=options.times, scratch=options.scratch)
    if options.codes:
        result["making_codes"] = making_codes(directory)
    print(json.dumps(result, indent=2))


def _queries(vectors: Any, count: int) -> np.ndarray:
    """Return vectors between stored ones, nearer to one of them, as pictures that are not in the index."""
    rng = np.random.default_rng(1)
    first, second = (vectors[np.sort(rng.integers(len(vectors), size=count))] for _ in range(2))
    mixed = 0.8 * first + 0.2 * rng.permutation(second)
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
