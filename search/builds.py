"""The write path: builds of a company's index. A fold, which only makes live changes part of it, is a kind of build."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction

from search import overlay, publication, runtime
from search.engine import storage
from search.engine.build.builder import BuildOptions, BuildOutcome, BuildProgress, build_index
from search.engine.build.republish import republish
from search.engine.errors import EngineError, IndexNotBuilt, IndexUnusable, LoadingStopped, ModelMismatch
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.model.embedder import Embedder
from search.heartbeat import BuildHeart, counts
from search.jobs import outcome_recorded
from search.outages import outlast
from search.stopping import StopRequested, stop_on_signal
from tenants.models import Company, IndexBuild, SkippedImage
from tenants.signals import fold_wanted

logger = logging.getLogger(__name__)


def run_build(
    build: IndexBuild,
    *,
    options: BuildOptions | None = None,
    on_progress: Callable[[BuildProgress], None] = lambda progress: None,
    requeue: bool = True,
) -> BuildOutcome:
    """Make and publish the index of build's company, and give build its outcome.

    build: claimed by the caller with build.start(). options: instead of those of the row.
    Whatever goes wrong is recorded in the row and raised again; searches keep the previous index. On SIGTERM or SIGINT
    StopRequested is raised, and the build is handed back to the queue, or cancelled where requeue is false. After a
    time without the database it is handed back as well, and JobStopped raised.
    Raises JobCancelled and LeaseLost where the build is no longer the caller's.
    """
    try:
        with outcome_recorded(build, requeue=requeue):
            return _carry_out(build, options or build_options(build), on_progress)
    finally:
        _look_after_live_changes(build.company)


def _carry_out(build: IndexBuild, options: BuildOptions, on_progress: Callable[[BuildProgress], None]) -> BuildOutcome:
    with stop_on_signal() as stop:
        heart = BuildHeart(build, stop, on_progress)
        outcome = _fold(build, heart) if build.fold else _build(build, heart, options)
    outlast(partial(_record, build, outcome))
    return outcome


@transaction.atomic
def _record(build: IndexBuild, outcome: BuildOutcome) -> None:
    skipped = (SkippedImage(build=build, path=file.path, reason=file.reason) for file in outcome.skipped_files)
    SkippedImage.objects.bulk_create(skipped, batch_size=1000)
    Company.objects.filter(pk=build.company_id).forget_stored()  # others may have written to the folder
    build.succeed(
        **counts(outcome.progress),
        total_images=outcome.total_images,
        full_reason=outcome.full_reason,
        neighbours_tried=outcome.neighbours.tried if outcome.neighbours else None,
        neighbours_own=outcome.neighbours.own if outcome.neighbours else None,
    )


def _build(build: IndexBuild, heart: BuildHeart, options: BuildOptions) -> BuildOutcome:
    company = build.company
    embedder = _embedder_for(build)
    heart.beat(weights=embedder.passport.weights)
    company.refresh_from_db(fields=publication.STATE)
    with suppress(IndexUnusable):  # a damaged one is made anew
        company.live_sequence = max(company.live_sequence, publication.holds_changes_to(company))
    return build_index(
        _image_directory(build),
        company.embeddings_directory,
        embedder=embedder,
        options=options,
        live_sequence=company.live_sequence,
        owner=str(company.pk),
        before=_files_before(company),
        publish=partial(publication.publish, company, made_from=company.generation, confirm=build.hold),
        report=heart.report,
    )


def _files_before(company: Company) -> Path | None:
    """Return where the files that serve the company lie; None where those that its row names are gone."""
    try:
        return publication.index_directory(company)
    except IndexNotBuilt:
        return None


def _fold(build: IndexBuild, heart: BuildHeart) -> BuildOutcome:
    """Publish the company's index with its live changes as a new generation.

    Raises ModelMismatch where a change was made with another model than the index: a build embeds it again.
    """
    company = build.company
    company.refresh_from_db(fields=publication.STATE)
    made_from = company.generation
    index = overlay.live_index_or_empty(company)

    def report(written: int) -> None:
        heart.report(BuildProgress(found=len(index), reused=written))

    storage.require_undamaged(publication.index_directory(company), copy=False, beat=lambda: report(0))
    info = _info_of_fold(company, index)
    heart.beat(weights=info.weights or "")
    made = republish(
        index,
        company.embeddings_directory,
        info=info,
        embeddings_npy=settings.WRITE_EMBEDDINGS_NPY,
        report=report,
        publish=partial(publication.publish, company, made_from=made_from, confirm=build.hold),
    )
    progress = BuildProgress(found=len(index), reused=len(index))
    return BuildOutcome(progress, [], len(index), full_reason="", published=True, neighbours=made.neighbours)


def _info_of_fold(company: Company, index: ImageIndex) -> IndexInfo:
    info = index.info
    passport = runtime.embedder().passport if info.fingerprint is None and not len(index.records) else info.passport
    if passport:
        info = replace(info, weights=passport.weights, fingerprint=passport.fingerprint)
        if company.live_changes.exclude(vector=None).exclude(fingerprint=passport.fingerprint).exists():
            raise ModelMismatch(f"Pictures of {company} were added with another model than {passport}: reindex it")
    return replace(info, live_sequence=company.live_sequence)


def _look_after_live_changes(company: Company) -> None:
    """Drop the live changes that are part of every index kept, and ask for a fold of those that came meanwhile.

    Whatever fails here is logged: the build has its outcome already.
    """
    try:
        publication.settle(company)
        if publication.missing_changes(company).exists():
            fold_wanted.send_robust(Company, company=company)
    except Company.DoesNotExist:
        logger.info("%s was deleted while its index was built", company)
    except (EngineError, OSError, DatabaseError):
        logger.exception("The live changes of %s could not be cleaned up", company)


def build_options(build: IndexBuild, **chosen: Any) -> BuildOptions:
    """Return the options that the row and the settings give, with those chosen by the caller."""
    return BuildOptions(
        max_pixels=settings.MAX_PIXELS,
        full=build.full,
        checksum=build.checksum,
        allow_empty=build.allow_empty,
        embeddings_npy=settings.WRITE_EMBEDDINGS_NPY,
        **chosen,
    )


def _image_directory(build: IndexBuild) -> Path:
    if build.image_folder:  # an operator named it on the command line
        return Path(build.image_folder)
    build.company.clean()  # the folder may have become a link that leads out of the allowed roots
    return build.company.image_directory


def _embedder_for(build: IndexBuild) -> Embedder:
    try:
        return runtime.embedder_of_demo() if build.company.name == runtime.DEMO else runtime.embedder()
    except LoadingStopped as error:
        raise StopRequested(f"The build of {build.company} was stopped while it loaded the model") from error
