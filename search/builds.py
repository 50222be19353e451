"""The write path: builds of a company's index."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction

from search import overlay, pictures, runtime
from search.companies import demo
from search.engine import storage
from search.engine.build.builder import BuildOptions, BuildOutcome, BuildProgress, build_index
from search.engine.build.republish import republish
from search.engine.errors import ModelMismatch
from search.engine.index.index import ImageIndex
from search.engine.model.embedder import Embedder
from tenants.models import BuildStopped, Company, IndexBuild, SkippedImage

logger = logging.getLogger(__name__)

_BEAT_SECONDS = 1.0
_RATE_SECONDS = 30.0  # pictures a second are counted over about so long


class StopRequested(Exception):
    """The process was asked to end; the build goes on elsewhere, or later."""


def run_build(
    build: IndexBuild,
    *,
    options: BuildOptions | None = None,
    on_progress: Callable[[BuildProgress], None] = lambda progress: None,
    requeue: bool = True,
) -> BuildOutcome:
    """Make and publish the index of build's company, and give build its outcome.

    build: claimed by the caller with build.start(). options: instead of those of the row.
    Whatever goes wrong is recorded in the row and raised again; the index before it serves on. On SIGTERM or SIGINT
    StopRequested is raised, and the build is handed back to the queue, or cancelled where requeue is false.
    Raises BuildCancelled and LeaseLost where the build is no longer the caller's.
    """
    company = build.company
    try:
        with _stop_on_signal() as stop:
            heart = _Heart(build, stop, on_progress)
            outcome = _fold(build, heart) if build.fold else _build(build, heart, options or build_options(build))
        _record(build, outcome)
    except StopRequested:
        if requeue:
            build.hand_back()
        else:
            build.cancel()
        raise
    except BuildStopped:
        raise
    except BaseException as error:
        logger.exception("The build of %s failed", company)
        build.fail(_reason(error))
        raise
    return outcome


def _build(build: IndexBuild, heart: "_Heart", options: BuildOptions) -> BuildOutcome:
    company = build.company
    embedder = _embedder_for(build)
    heart.beat(weights=embedder.passport.weights)
    return build_index(
        _image_directory(build),
        company.embeddings_directory,
        embedder=embedder,
        options=options,
        live_sequence=Company.objects.values_list("live_sequence", flat=True).get(pk=company.pk),
        report=heart.report,
        confirm=build.hold,
    )


def _fold(build: IndexBuild, heart: "_Heart") -> BuildOutcome:
    def report(written: int, total: int) -> None:
        heart.report(BuildProgress(found=total, reused=written))

    index = _publish_live_changes(build.company, report=report, confirm=build.hold)
    heart.beat(weights=index.info.weights or "")
    progress = BuildProgress(found=len(index), reused=len(index))
    return BuildOutcome(progress, [], len(index), full_reason="", published=True)


def _publish_live_changes(
    company: Company, *, report: Callable[[int, int], None], confirm: Callable[[], AbstractContextManager[object]]
) -> ImageIndex:
    """Publish the company's index with its live changes as a new generation; return what was published.

    report is called with the number of pictures written and their total. Raises ModelMismatch where a change was
    made with another model than the index: a build embeds it again.
    """
    company.refresh_from_db(fields=["live_sequence"])
    index = overlay.index_or_empty(company)
    storage.require_undamaged(company.embeddings_directory, beat=lambda: report(0, len(index)))
    info = index.info
    passport = runtime.embedder().passport if info.fingerprint is None and not len(index.records) else info.passport
    if passport:
        info = replace(info, weights=passport.weights, fingerprint=passport.fingerprint)
        if company.live_changes.exclude(vector=None).exclude(fingerprint=passport.fingerprint).exists():
            raise ModelMismatch(f"Pictures of {company} were put with another model than {passport}: reindex it")
    republish(
        index,
        company.embeddings_directory,
        info=replace(info, live_sequence=company.live_sequence),
        keep=settings.KEEP_GENERATIONS,
        report=lambda written: report(written, len(index)),
        confirm=confirm,
    )
    return index


def _reason(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(error.messages)
    return str(error) or type(error).__name__


def build_options(build: IndexBuild, **chosen: Any) -> BuildOptions:
    """Return the options that the row and the settings give, with those chosen by the caller."""
    return BuildOptions(
        max_pixels=settings.MAX_PIXELS,
        keep_generations=settings.KEEP_GENERATIONS,
        full=build.full,
        checksum=build.checksum,
        allow_empty=build.allow_empty,
        **chosen,
    )


def _image_directory(build: IndexBuild) -> Path:
    if build.image_folder:  # an operator named it on the command line
        return Path(build.image_folder)
    build.company.clean()  # the folder may have become a link that leads out of the allowed roots
    return build.company.image_directory


def _embedder_for(build: IndexBuild) -> Embedder:
    """Return the configured embedder; the demo, and nobody else, does without its weights where they are missing."""
    if build.company.name == demo.COMPANY:
        return runtime.embedder_or_untrained()
    return runtime.embedder()


def _record(build: IndexBuild, outcome: BuildOutcome) -> None:
    skipped = (SkippedImage(build=build, path=file.path, reason=file.reason) for file in outcome.skipped_files)
    with transaction.atomic():
        SkippedImage.objects.bulk_create(skipped, batch_size=1000)
        build.succeed(
            **_counts(outcome.progress),
            total_images=outcome.total_images,
            full_reason=outcome.full_reason,
        )
    _settle_live_changes(build.company)


def _settle_live_changes(company: Company) -> None:
    """Drop the live changes that every kept generation holds, and have those folded that came during the build."""
    generations = storage.generations(company.embeddings_directory)
    company.live_changes.filter(sequence__lte=min(each.info.live_sequence or 0 for each in generations)).delete()
    published = next(each for each in generations if each.published)
    if company.live_changes.filter(sequence__gt=published.info.live_sequence or 0).exists():
        pictures.fold_later(company, changes=1)


def _counts(progress: BuildProgress) -> dict[str, int]:
    return {
        "images_found": progress.found,
        "images_embedded": progress.embedded,
        "images_reused": progress.reused,
        "images_removed": progress.removed,
        "images_skipped": progress.skipped,
    }


class _Heart:
    """Writes a build's progress to its row, about once a second; that write is its heartbeat as well."""

    def __init__(self, build: IndexBuild, stop: threading.Event, on_progress: Callable[[BuildProgress], None]) -> None:
        self._build, self._stop, self._on_progress = build, stop, on_progress
        self._beat_at = 0.0
        self._rate = _Rate()

    def report(self, progress: BuildProgress) -> None:
        """Raises StopRequested, BuildCancelled and LeaseLost."""
        if self._stop.is_set():
            raise StopRequested(f"The build of {self._build.company} is stopped: it goes on where it was")
        self._on_progress(progress)
        self._rate.update(progress)
        if time.monotonic() - self._beat_at >= _BEAT_SECONDS:
            per_second = self._rate.per_second
            left = (progress.found - progress.done) / per_second if per_second else None
            self.beat(**_counts(progress), images_per_second=per_second, seconds_left=left)

    def beat(self, **values: Any) -> None:
        self._build.beat(**values)
        self._beat_at = time.monotonic()


class _Rate:
    """Pictures a second, of late."""

    def __init__(self) -> None:
        self.per_second: float | None = None
        self._since = time.monotonic()
        self._done: int | None = None

    def update(self, progress: BuildProgress) -> None:
        done = progress.embedded + progress.skipped
        if self._done is None:  # what was there before this attempt does not count
            self._since, self._done = time.monotonic(), done
            return
        seconds = time.monotonic() - self._since
        if done > self._done and seconds > 0:
            self.per_second = (done - self._done) / seconds
            if seconds > _RATE_SECONDS:
                self._since, self._done = time.monotonic(), done


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set; the handlers in place before are called as well, save Python's own.

    Outside the main thread, where signals cannot be handled, it is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():  # asked twice: at once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()
        earlier = before[signal.Signals(number)]
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
