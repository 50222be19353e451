"""Two or more ways measured turn by turn, so that whatever else the machine does slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def measure(
    ways: dict[str, Callable[[Any], Any]], inputs: Sequence[Any], *, warm_up: int = 3
) -> dict[str, list[float]]:
    """Return the seconds of each way for each input, the ways taking turns."""
    for given in inputs[:warm_up]:
        for way in ways.values():
            way(given)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for given in inputs:
        for name, way in ways.items():
            started = time.perf_counter()
            way(given)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Return median and spread in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": 1000 * statistics.median(ordered),
        "p10_ms": 1000 * ordered[len(ordered) // 10],
        "p90_ms": 1000 * ordered[(9 * len(ordered)) // 10],
    }


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Return how many times faster fast is: of the medians, and the 10th and 90th percentile over the turns."""
    turns = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return {
        "ratio": statistics.median(slow) / statistics.median(fast),
        "ratio_p10": turns[len(turns) // 10],
        "ratio_p90": turns[(9 * len(turns)) // 10],
    }
