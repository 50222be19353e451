"""The write path: builds of a company's index."""

import logging
from collections.abc import Callable
from pathlib import Path

from django.conf import settings

from search import demo, runtime
from search.engine.builder import BuildOutcome, BuildProgress, build_index
from search.engine.embedder import Embedder
from tenants.models import IndexBuild, SkippedImage

logger = logging.getLogger(__name__)

DEFAULT_BATCH_SIZE = 32


def run_build(
    build: IndexBuild,
    *,
    folder: Path | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_progress: Callable[[BuildProgress], None] = lambda progress: None,
) -> BuildOutcome:
    """Make and publish the index of build's company, and give build its outcome.

    build: claimed by the caller with build.start(). folder: instead of the company's own.
    Whatever goes wrong is recorded in the row and raised again; the index before it serves on.
    """
    company = build.company

    def report(progress: BuildProgress) -> None:
        build.report(found=progress.found, embedded=progress.embedded, skipped=progress.skipped)
        on_progress(progress)

    try:
        embedder = _embedder_for(build)
        outcome = build_index(
            folder or company.image_directory,
            company.embeddings_directory,
            embedder=embedder,
            max_pixels=settings.MAX_PIXELS,
            batch_size=batch_size,
            keep_generations=settings.KEEP_GENERATIONS,
            report=report,
        )
    except BaseException as error:
        logger.exception("The build of %s failed", company)
        build.fail(str(error) or type(error).__name__)
        raise
    SkippedImage.objects.bulk_create(
        (SkippedImage(build=build, path=file.path, reason=file.reason) for file in outcome.skipped_files),
        batch_size=1000,
    )
    build.succeed(total_images=outcome.progress.embedded, weights=embedder.passport.weights)
    return outcome


def _embedder_for(build: IndexBuild) -> Embedder:
    """Return the configured embedder; the demo, and nobody else, does without its weights where they are missing."""
    if build.company.name == demo.COMPANY:
        return runtime.embedder_or_untrained()
    return runtime.embedder()
