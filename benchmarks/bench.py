"""make bench: this service and the plain way side by side, turn by turn; writes results.json and results.png.

Usage: python -m benchmarks.bench [--weights PATH] [--photos DIR] [--only SECTION ...] [--largest 1000000]
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import installation
from benchmarks.servers import gunicorn, memory_of_workers, post

HERE = Path(__file__).resolve().parent
TOP_K = 10


class Bench:
    def __init__(self, scratch: Path, weights: str, photos: Path | None, largest: int) -> None:
        installation.set_up(scratch, weights)
        from benchmarks import data
        from search import runtime

        self.scratch, self.weights, self.largest = scratch, weights, largest
        self.photos = data.photographs(scratch, photos)
        self.embedder = runtime.embedder()
        self.real = self._embed_photos()
        self._written: dict[int, float] = {}  # CPU seconds of each index

    def _embed_photos(self) -> np.ndarray:
        from search.engine.pictures.decode import open_image

        chosen = self.photos[:: max(1, len(self.photos) // 400)]
        pictures = [
            open_image(photo, name=photo.name, max_pixels=10**8, min_side=self.embedder.min_side) for photo in chosen
        ]
        prepared = [self.embedder.prepare(picture) for picture in pictures]
        return np.concatenate([self.embedder.embed(prepared[at : at + 32]) for at in range(0, len(prepared), 32)])

    def directory(self, count: int) -> Path:
        """Return an index of count vectors, made on first use."""
        from benchmarks import data

        directory = self.scratch / "embeddings" / f"v{count}"
        if not directory.exists():
            passport = self.embedder.passport
            vectors = data.vectors_like(self.real, count, seed=count)
            made_by = {"weights": passport.weights, "fingerprint": passport.fingerprint}
            self._written[count] = _cpu_seconds(lambda: data.write_index(vectors, directory, **made_by))
        return directory

    # Sections

    def search_stage(self) -> dict[str, Any]:
        """One query against the index in memory, best ten; of large ones, best fifty too."""
        results = {}
        for count in (1_000, 10_000, 100_000, 1_000_000):
            if count <= self.largest:
                results[str(count)] = self._search_stage(count, TOP_K, with_graph=count == 10_000)
                if count >= 100_000:
                    results[str(count)]["best_50"] = self._search_stage(count, 50)
        return results

    def _search_stage(self, count: int, top_k: int, *, with_graph: bool = False) -> dict[str, Any]:
        from benchmarks import plain
        from search.engine import storage

        directory = self.directory(count)
        ours, plain_index = storage.load(directory), plain.PlainIndex(directory)
        graphs = _graph_indexes(plain_index.vectors(), top_k) if with_graph else {}
        result = self._compare(ours, plain_index.vectors(), top_k, plain=plain_index, graphs=graphs)
        return result | {"recorded": storage.info_entries(ours.info).get("coarse")}

    def folders(self) -> dict[str, Any]:
        """One query among the pictures of a folder that holds a part of the largest index, best ten."""
        from benchmarks import data, plain
        from search.engine import storage

        directory = self.directory(self.largest)
        ours, plain_index = storage.load(directory), plain.PlainIndex(directory)
        results = {}
        for name, location in data.FOLDERS.items():
            below = plain_index.vectors()[ours.records.rows_below(location)]
            results[name] = {"pictures": len(below)} | self._compare(ours, below, TOP_K, location=location)
        return results

    def _compare(
        self,
        ours: Any,
        vectors: np.ndarray,
        top_k: int,
        *,
        location: str = "",
        plain: Any = None,
        graphs: dict[str, Callable[[Any], list[int]]] | None = None,
    ) -> dict[str, Any]:
        """Time the ways in turns, and count what they find of the best rows of vectors."""
        from benchmarks import data, turns

        queries = list(data.vectors_like(self.real, 100 if len(vectors) < 10**5 else 40, seed=1))
        first = ours.records.rows_below(location).start
        ways: dict[str, Callable[[Any], Any]] = {
            "ours": lambda query: ours.search(query, top_k, location=location),
            "numpy": lambda query: _numpy_search(vectors, query, top_k),
            **(graphs or {}),
        }
        if plain:
            ways["plain"] = lambda query: plain.search(query, top_k)
        seconds = turns.measure(ways, queries)
        found: dict[str, Callable[[Any], list[int]]] = {
            "ours": lambda query: [ours.records.rows_of_id(match.image.id)[0] - first for match in ways["ours"](query)],
            **(graphs or {}),
        }
        result: dict[str, Any] = {name: turns.summary(values) for name, values in seconds.items()}
        for name, find in found.items():
            result[name]["recall"] = statistics.mean(_recall(find(query), vectors @ query, top_k) for query in queries)
        other = "plain" if plain else "numpy"
        return result | {f"{other}_to_ours": turns.ratio(seconds[other], seconds["ours"])}

    def rebuild(self) -> dict[str, Any]:
        """The largest index written from its vectors, and again with a hundredth of them replaced."""
        from benchmarks import data
        from search.engine import storage
        from search.engine.build.republish import republish
        from search.engine.index.index import LiveImage

        index = storage.load(self.directory(self.largest))
        rows = np.linspace(0, len(index) - 1, num=len(index) // 100, dtype=int)
        fresh = data.vectors_like(self.real, len(rows), seed=2)
        changes = [LiveImage(index.records[row], vector) for row, vector in zip(rows.tolist(), fresh, strict=True)]
        target = self.scratch / "rebuilt"
        publish = partial(storage.publish_by_link, target, keep=0)
        changed = index.with_changes(changes)
        seconds = _cpu_seconds(
            lambda: republish(changed, target, info=index.info, publish=publish, embeddings_npy=False)
        )
        recorded = storage.info_entries(storage.info(target)).get("coarse")
        storage.remove(target)
        return {
            "pictures": len(index),
            "first_cpu_seconds": self._written[self.largest],
            "again_cpu_seconds": seconds,
            "recorded": recorded,
        }

    def http(self) -> dict[str, Any]:
        """POST /api/search over HTTP with photographs, 100,000 pictures: one after another, and 4 at a time."""
        from benchmarks import turns

        self._know_companies()
        photos = [photo.read_bytes() for photo in self.photos[:60]]
        with self._plain_server() as plain, self._server() as ours:
            ways = {
                "plain": lambda photo: post(plain.address, f"v{100_000}", photo),
                "ours": lambda photo: post(ours.address, f"v{100_000}", photo),
            }
            seconds = turns.measure(ways, photos, warm_up=8)
            throughput: dict[str, list[float]] = {"plain": [], "ours": []}
            for _ in range(4):
                for name, way in ways.items():
                    throughput[name].append(_throughput(way, photos[:40], callers=4))
        rates = {name: statistics.median(values) for name, values in throughput.items()}
        return {
            "one_after_another": {name: turns.summary(values) for name, values in seconds.items()},
            "plain_to_ours_p50": turns.ratio(seconds["plain"], seconds["ours"]),
            "searches_a_second_4_at_a_time": throughput,
            "ours_to_plain_throughput": rates["ours"] / rates["plain"],
        }

    def cold(self) -> dict[str, Any]:
        """The first search of a 100,000-picture company in a warm process: load and search."""
        from benchmarks import plain, turns
        from search.engine import storage

        directory = self.directory(100_000)
        query = self.real[0]
        ways = {
            "plain": lambda _: plain.PlainIndex(directory).search(query, TOP_K),
            "ours": lambda _: storage.load(directory).search(query, TOP_K),
        }
        seconds = turns.measure(ways, range(10), warm_up=1)
        result: dict[str, Any] = {name: turns.summary(values) for name, values in seconds.items()}
        return result | {"plain_to_ours": turns.ratio(seconds["plain"], seconds["ours"])}

    def build(self) -> dict[str, Any]:
        """Pictures a second of a first build, model loaded, from 1,024 JPEGs of 500 pixels and 64 of 12 megapixels."""
        from benchmarks import data, plain

        model = plain.PlainModel(self.weights)
        results = {}
        for name, count, size in (("500_pixels", 1024, (500, 375)), ("12_megapixels", 64, (4000, 3000))):
            folder = data.resized(self.photos, self.scratch / "pictures" / name, count=count, size=size)
            rates: dict[str, list[float]] = {"plain": [], "ours": []}
            for turn in range(3):
                target = self.scratch / "built" / f"{name}-{turn}"
                rates["plain"].append(count / _seconds(partial(plain.build, model, folder, target / "plain")))
                rates["ours"].append(count / _seconds(partial(self._build, folder, target / "ours")))
            ratios = [ours / plain for ours, plain in zip(rates["ours"], rates["plain"], strict=True)]
            results[name] = {"pictures_a_second": rates, "ratio": statistics.median(ratios), "ratios": ratios}
        return results

    def _build(self, folder: Path, target: Path) -> None:
        from search.engine.build.builder import BuildOptions, build_index

        options = BuildOptions(max_pixels=10**8)
        build_index(folder, target, embedder=self.embedder, options=options)

    def memory(self) -> dict[str, Any]:
        """Resident memory after 40 searches of a 100,000-picture company; shared pages counted once for several."""
        self._know_companies()
        photos = [photo.read_bytes() for photo in self.photos[:40]]
        results = {}
        for name, server in (
            ("plain_1", lambda: self._plain_server()),
            ("ours_1", lambda: self._server(processes=1)),
            ("ours_4", lambda: self._server(processes=4)),
        ):
            with server() as serving:
                with ThreadPoolExecutor(8) as callers:
                    list(callers.map(lambda photo, to=serving.address: post(to, f"v{100_000}", photo), photos * 3))
                results[name] = memory_of_workers(serving.pid)
        return results

    def eviction(self) -> dict[str, Any]:
        """Searches of 200 companies in turn with a cache budget for 50."""
        from benchmarks import data
        from search.engine import storage
        from search.engine.index.index import ImageIndex
        from search.engine.storage.cache import IndexCache

        vectors = data.vectors_like(self.real, 2_000, seed=5)
        directories = [self.scratch / "many" / f"c{number:03}" for number in range(200)]
        for directory in directories:
            data.write_index(vectors, directory, weights="bench", fingerprint="bench")
        cache = IndexCache(50 * cache_bytes(directories[0]))
        query, errors, resident = self.real[0], 0, []

        def index_of(company: int) -> ImageIndex:
            return cache.get(company, "1", partial(storage.load, directories[company]))

        for _ in range(3):
            for company in range(len(directories)):
                errors += len(index_of(company).search(query, TOP_K)) != TOP_K
            resident.append(_resident_mb())
        warm = min(_seconds(lambda: index_of(199).search(query, TOP_K)) for _ in range(20))
        return {
            "errors": errors,
            "loaded": len(cache.loaded()),
            "evictions": cache.counts.evictions,
            "warm_search_of_company_200_ms": 1000 * warm,
            "resident_mb_after_each_round": resident,
        }

    # Servers

    def _know_companies(self) -> None:
        from tenants.models import Company

        self.directory(100_000)
        Company.objects.get_or_create(name=f"v{100_000}")

    def _server(self, processes: int | None = None) -> Any:
        environment = {"WEB_PROCESSES": str(processes)} if processes else {}
        return gunicorn(["--config", "imagesearch/gunicorn_conf.py", "imagesearch.asgi"], environment)

    def _plain_server(self) -> Any:
        environment = {"PLAIN_WEIGHTS": self.weights, "PLAIN_EMBEDDINGS": str(self.scratch / "embeddings")}
        command = ["--workers=1", "--worker-class=gthread", "--threads=4", "--timeout=120", "--no-control-socket"]
        return gunicorn([*command, "benchmarks.plain:application()"], environment)


def cache_bytes(directory: Path) -> int:
    from search.engine import storage

    return storage.load(directory).nbytes


def _numpy_search(vectors: np.ndarray, query: np.ndarray, top_k: int) -> list[int]:
    scores = vectors @ query
    best = np.argpartition(scores, -top_k)[-top_k:]
    return best[np.argsort(-scores[best])].tolist()


def _recall(found: list[int], scores: np.ndarray, top_k: int) -> float:
    """Return the share of the best top_k that was found; what scores as high, but for rounding, is as good."""
    least = np.partition(scores, -top_k)[-top_k]
    return float(np.count_nonzero(scores[found] >= least - 1e-6)) / top_k


def _graph_indexes(vectors: np.ndarray, top_k: int) -> dict[str, Callable[[Any], list[int]]]:
    """Return the approximate searches of the libraries that are installed, set for a recall like ours."""
    searches: dict[str, Callable[[Any], list[int]]] = {}
    try:
        import hnswlib

        graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
        graph.init_index(max_elements=len(vectors), ef_construction=100, M=16)
        graph.add_items(vectors)
        graph.set_ef(256)
        searches["hnswlib"] = lambda query: graph.knn_query(query, k=top_k)[0][0].tolist()
    except ImportError:
        pass
    return searches


def _throughput(way: Callable[[bytes], Any], photos: list[bytes], *, callers: int) -> float:
    with ThreadPoolExecutor(callers) as pool:
        return len(photos) / _seconds(lambda: list(pool.map(way, photos)))


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _resident_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


SECTIONS = ("search_stage", "folders", "rebuild", "cold", "http", "build", "memory", "eviction")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default=os.environ.get("IMAGESEARCH_WEIGHTS", "IMAGENET1K_V1"))
    parser.add_argument("--photos", type=Path, help="photographs to search with; by default the demo's drawings")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--largest", type=int, default=1_000_000, help="largest index of the search stage")
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="imagesearch-bench-"))
    machine = installation.machine()
    try:
        bench = Bench(scratch, options.weights, options.photos, options.largest)
        results: dict[str, Any] = {"machine": machine}
        for name in options.only:
            seconds = time.perf_counter()
            results[name] = getattr(bench, name)()
            print(
                f"\n{name} ({time.perf_counter() - seconds:.0f} s)\n{json.dumps(results[name], indent=2)}", flush=True
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "results.json"
    if path.exists() and set(options.only) != set(SECTIONS):  # one section measured again
        results = json.loads(path.read_text()) | results
    path.write_text(json.dumps(results, indent=2) + "\n")
    if set(results) >= set(SECTIONS):
        from benchmarks.plot import plot

        plot(results, options.output / "results.png")


if __name__ == "__main__":
    main()
