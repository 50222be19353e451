import sys
import time
from typing import Any, Self

from tqdm import tqdm

from search.engine.build.builder import BuildProgress
from search.monitoring.durations import format_seconds


class ProgressDisplay:
    """A progress bar with rate and time left on a terminal, otherwise a line every few seconds."""

    _SECONDS_BETWEEN_LINES = 5

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._started = self._last_line = time.monotonic()
        self._initial: int | None = (
            None  # done when the first line is shown: unchanged pictures do not count for the rate
        )
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, progress: BuildProgress) -> None:
        if sys.stderr.isatty():
            self._show_bar(progress)
        elif time.monotonic() - self._last_line >= self._SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._show_line(progress)

    def _show_bar(self, progress: BuildProgress) -> None:
        if self._bar is None:
            self._bar = tqdm(initial=progress.done, unit=" pictures")
        self._bar.total = progress.found
        self._bar.set_postfix(skipped=progress.skipped, refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def _show_line(self, progress: BuildProgress) -> None:
        if self._initial is None:
            self._initial, self._started = progress.done, time.monotonic()
        text = f"{progress.done}/{progress.found} pictures"
        seconds = time.monotonic() - self._started
        if progress.done > self._initial and seconds > 0:
            rate = (progress.done - self._initial) / seconds
            text += f", {rate:.1f} pictures/s, {format_seconds((progress.found - progress.done) / rate)} left"
        self._stream.write(text)
