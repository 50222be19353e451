"""make quality: what searches find, how true match is, which duplicates are found; to quality.json and two plots.

Three catalogues are searched: the photographs of the folder given, and two that are drawn, a shelf of packages nearly
alike and mixed drawings, because what suits one catalogue need not suit another. One picture in six is left out of
each. Which pictures, edits and places are used hangs on the seed alone.

Usage: python -m benchmarks.quality [--weights PATH] [--photos DIR] [--seed 0] [--most 600] [--searches 40]
       [--only SECTION ...]
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import installation

if TYPE_CHECKING:
    from benchmarks.finding.catalogue import Catalogue

HERE = Path(__file__).resolve().parent
SECTIONS = ("copies", "trust", "duplicates", "crops", "several")


class Quality:
    def __init__(self, scratch: Path, photos: Path | None, *, seed: int, most: int, searches: int) -> None:
        """most: pictures of a catalogue. searches: with each kind of edit. Drawn catalogues have half of both."""
        self.searches, self.catalogues = searches, self._catalogues(scratch, photos, seed=seed, most=most)

    def _catalogues(self, scratch: Path, photos: Path | None, *, seed: int, most: int) -> "list[Catalogue]":
        from benchmarks.finding import drawn
        from benchmarks.finding.catalogue import make_catalogue

        drawings = {"shelf": drawn.draw_shelf, "mixed": drawn.draw_mixed}
        for name, draw in drawings.items():
            draw(scratch / "drawings" / name, count=most // 2, seed=seed)
        folders = {"photographs": photos} if photos else {}
        folders |= {name: scratch / "drawings" / name for name in drawings}
        return [
            make_catalogue(name, folder, drawn=name in drawings, seed=seed, most=most)
            for name, folder in folders.items()
        ]

    def measure(self, catalogue: "Catalogue", only: Collection[str]) -> dict[str, Any]:
        from benchmarks.finding import copies, crops, duplicates, several, trust

        searches = self.searches if not catalogue.drawn else self.searches // 2
        others = [other for other in self.catalogues if other is not catalogue]
        steps: dict[str, Callable[[], Any]] = {
            "copies": lambda: copies.figures(catalogue, count=searches),
            "trust": lambda: trust.figures(catalogue, others, count=15 * searches),
            "duplicates": lambda: duplicates.figures(catalogue),
            "crops": lambda: crops.figures(catalogue, count=searches),
            "several": lambda: several.figures(catalogue, count=4 * searches),
        }
        results: dict[str, Any] = {
            "drawn": catalogue.drawn,
            "pictures": len(catalogue.present),
            "left_out": len(catalogue.absent),
            "seconds": {},
        }
        for name in only:
            began = time.perf_counter()
            results[name] = steps[name]()
            results["seconds"][name] = round(time.perf_counter() - began, 1)
            print(f"\n{catalogue.name}, {name}\n{json.dumps(results[name], indent=2)}", flush=True)
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default=os.environ.get("IMAGESEARCH_WEIGHTS", "IMAGENET1K_V1"))
    parser.add_argument("--photos", type=Path, help="photographs to search with, beside the drawn catalogues")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--most",
        type=int,
        default=600,
        help="photographs that are used; half as many pictures are drawn for each of the others",
    )
    parser.add_argument(
        "--searches", type=int, default=40, help="with each kind of edit; half as many in drawn catalogues"
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--plot", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    results = measure(
        options.weights,
        options.photos,
        seed=options.seed,
        most=options.most,
        searches=options.searches,
        only=options.only,
    )
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "quality.json"
    if path.exists() and set(options.only) != set(SECTIONS):  # one section measured again
        results = _merged(json.loads(path.read_text()), results)
    path.write_text(json.dumps(results, indent=2) + "\n")
    if options.plot and all(of.keys() >= set(SECTIONS) for of in results["catalogues"].values()):
        from benchmarks.finding.plot import plot, plot_reliability

        plot(results, options.output / "quality.png")
        plot_reliability(results, options.output / "reliability.png")


def measure(
    weights: str, photos: Path | None, *, seed: int, most: int, searches: int, only: Collection[str]
) -> dict[str, Any]:
    """Return the figures of these sections; what is made for them is removed."""
    began = time.perf_counter()
    scratch = Path(tempfile.mkdtemp(prefix="imagesearch-quality-"))
    try:
        installation.set_up(scratch, weights)
        from search import runtime

        quality = Quality(scratch, photos, seed=seed, most=most, searches=searches)
        return {
            "machine": installation.machine(),
            "weights": str(runtime.embedder().passport),
            "seed": seed,
            "catalogues": {catalogue.name: quality.measure(catalogue, only) for catalogue in quality.catalogues},
            "seconds": round(time.perf_counter() - began),
        }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the results before with the sections that were measured now."""
    for name, figures in now["catalogues"].items():
        seconds = before["catalogues"][name]["seconds"] | figures["seconds"]
        before["catalogues"][name] |= figures | {"seconds": seconds}
    return before


if __name__ == "__main__":
    main()
