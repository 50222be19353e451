from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

_COLOURS = {"photographs": "tab:blue", "shelf": "tab:orange", "mixed": "tab:green"}


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw what is found by kind of edit, how true match is, and what boxes and several pictures gain."""
    catalogues = results["catalogues"]
    figure = pyplot.figure(figsize=(14, 10), layout="constrained")
    axes = figure.subplot_mosaic(
        [["copies", "match", "crops"], ["copies", "duplicates", "several"]], width_ratios=[1.2, 1, 1]
    )
    _copies(axes["copies"], catalogues)
    plot_match(axes["match"], catalogues)
    _duplicates(axes["duplicates"], catalogues)
    crops = {name: _crop_shares(of["crops"]) for name, of in catalogues.items()}
    _bars(axes["crops"], crops, title="Products in a scene, found first")
    several = {name: _precisions(of["several"]) for name, of in catalogues.items() if of["several"]}
    _bars(axes["several"], several, title="Of the first ten, in the folder looked for")
    machine = results["machine"]
    figure.suptitle(f"{results['weights']}; {machine['cpu']}, {machine['cores']} cores", fontsize=9)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def plot_reliability(results: dict[str, Any], path: Path) -> None:
    """Draw how often what is shown as match was true."""
    figure, axes = pyplot.subplots(figsize=(5.5, 4.5), layout="constrained")
    plot_match(axes, results["catalogues"])
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot_match(axes: Axes, catalogues: dict[str, Any]) -> None:
    axes.plot([0, 100], [0, 100], "--", color="tab:gray", label="as true as it says")
    for name, of in catalogues.items():
        match = of["trust"]["match"]
        if match:
            tenths = [tenth for tenth in match["reliability"] if tenth["results"] >= 10]
            label = f"{_label(name, of)}, off by {100 * match['calibration_error']:.0f} % on average"
            shown, true = ([tenth[key] for tenth in tenths] for key in ("shown", "true"))
            axes.plot(shown, true, "o-", color=_COLOURS[name], label=label)
    axes.set(xlabel="match of the first result, %", ylabel="was the same picture, %", title="How true match is")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _copies(axes: Axes, catalogues: dict[str, Any]) -> None:
    kinds = list(next(iter(catalogues.values()))["copies"]["kinds"])[::-1]
    for number, (name, of) in enumerate(catalogues.items()):
        colour = _COLOURS[name]
        places = [place + 0.25 * (1 - number) for place in range(len(kinds))]
        figures = [of["copies"]["kinds"][kind] for kind in kinds]
        axes.plot([100 * each["untrimmed"] for each in figures], places, "o", markerfacecolor="none", color=colour)
        axes.plot([100 * each["found_first"] for each in figures], places, "o", color=colour, label=_label(name, of))
    axes.plot([], [], "o", markerfacecolor="none", color="tab:gray", label="before borders were trimmed")
    axes.set(
        yticks=range(len(kinds)),
        yticklabels=kinds,
        xlim=(-3, 103),
        xlabel="%",
        title="Edited copies whose original comes first",
    )
    axes.legend(fontsize=8, loc="upper left")
    axes.grid(alpha=0.3)


def _duplicates(axes: Axes, catalogues: dict[str, Any]) -> None:
    found = {
        name: {level: 100 * of["found"] for level, of in catalogue["duplicates"]["levels"].items()}
        for name, catalogue in catalogues.items()
    }
    _bars(axes, found, title="Edited copies found as duplicates")
    false = [
        f"{name} {level['false_pairs_per_1000_pictures']:.1f}"
        for name, catalogue in catalogues.items()
        for level in [catalogue["duplicates"]["levels"]["edited"]]
    ]
    axes.set_xlabel(f"false pairs in 1,000 pictures: {', '.join(false)}", fontsize=8)


def _crop_shares(crops: dict[str, Any]) -> dict[str, float]:
    ways = {"without": "no box", "with_box": "box", "with_box_15_percent_off": "15 % off"}
    return {f"{label}\n{area}": 100 * of[way] for area, of in crops.items() for way, label in ways.items()}


def _precisions(several: dict[str, float]) -> dict[str, float]:
    ways = {"one_picture": "one picture", "three_pictures": "three", "like": "like", "like_and_unlike": "like, unlike"}
    return {label: 100 * several[way] for way, label in ways.items()}


def _bars(axes: Axes, groups: dict[str, dict[str, float]], *, title: str) -> None:
    """Draw percents by name, the catalogues beside each other."""
    names = list(next(iter(groups.values())))
    width = 0.8 / len(groups)
    for number, (catalogue, values) in enumerate(groups.items()):
        places = [place + width * (number - (len(groups) - 1) / 2) for place in range(len(names))]
        drawn = axes.bar(places, [values[name] for name in names], width, color=_COLOURS[catalogue], label=catalogue)
        axes.bar_label(drawn, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set(ylabel="%", ylim=(0, 125), title=title)
    axes.legend(fontsize=8, loc="upper left", ncols=len(groups))


def _label(name: str, of: dict[str, Any]) -> str:
    return f"{name} (drawn)" if of["drawn"] else name
