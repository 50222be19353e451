from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw how a search's cost grows with the pictures, and how many times faster each part is than the plain way."""
    figure, (growth, ratios) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    stage = results["search_stage"]
    counts = sorted(stage, key=int)
    for way, colour in (("plain", "tab:gray"), ("numpy", "tab:orange"), ("ours", "tab:blue")):
        growth.plot([int(n) for n in counts], [stage[n][way]["p50_ms"] for n in counts], "o-", color=colour, label=way)
    growth.set(
        xscale="log", yscale="log", xlabel="pictures", ylabel="ms a search (median)", title="Search stage, best 10"
    )
    growth.legend()
    growth.grid(alpha=0.3)
    bars = {
        **{f"search, {int(n):,}": stage[n]["plain_to_ours"]["ratio"] for n in counts},
        **{
            f"the same, best 50, {int(n):,}": stage[n]["best_50"]["plain_to_ours"]["ratio"]
            for n in counts
            if "best_50" in stage[n]
        },
        "first search": results["cold"]["plain_to_ours"]["ratio"],
        "HTTP, one by one": results["http"]["plain_to_ours_p50"]["ratio"],
        "HTTP, 4 at a time": results["http"]["ours_to_plain_throughput"],
        "build, 500 px": results["build"]["500_pixels"]["ratio"],
        "build, 12 MP": results["build"]["12_megapixels"]["ratio"],
    }
    drawn = ratios.barh(list(bars)[::-1], list(bars.values())[::-1], color="tab:blue")
    ratios.bar_label(drawn, fmt="%.1f x", padding=3)
    ratios.set(xscale="log", title="Times as fast as the plain way")
    machine = results["machine"]
    figure.suptitle(f"{machine['cpu']}, {machine['cores']} cores", fontsize=9)
    figure.savefig(path, dpi=110)
