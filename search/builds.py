"""The write path: builds of a company's index. A fold, which only makes live changes part of it, is a kind of build."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
from search.engine.errors import EngineError, IndexCorrupt, IndexNotBuilt, IndexUnusable, LoadingStopped, ModelMismatch
from search.engine.index.comparison import measure_overlap
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.model.embedder import Embedder
from search.engine.model.passport import ModelPassport
from search.engine.pictures.folder import SkippedFile
from search.engine.pictures.folders import DiskFolder, PictureFolder
from search.folders import folder_of
from search.heartbeat import BuildHeart, counts
from search.jobs import outcome_recorded
from search.live_vectors import embed_missing
from search.outages import outlast
from search.stopping import StopRequested, stop_on_signal
from search.units import SharedBuild
from tenants.models import BuildUnit, Company, IndexBuild, SkippedImage
from tenants.signals import fold_wanted, index_published

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
            outcome = _carry_out(build, options or build_options(build), on_progress)
    finally:
        _look_after_live_changes(build.company)
    if outcome.published:
        index_published.send_robust(Company, company=build.company)
    return outcome


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
    build.succeed(  # before the company's row, as all lock the two
        **counts(outcome.progress),
        total_images=outcome.total_images,
        full_reason=outcome.full_reason,
        neighbours_tried=outcome.neighbours.tried if outcome.neighbours else None,
        neighbours_own=outcome.neighbours.own if outcome.neighbours else None,
    )
    Company.objects.filter(pk=build.company_id).forget_stored()  # others may have written to the folder


def _build(build: IndexBuild, heart: BuildHeart, options: BuildOptions) -> BuildOutcome:
    """Bring the index that serves up to date; with another model, make a candidate, which may take its place."""
    company = build.company
    company.refresh_from_db(fields=publication.STATE)
    embedder = next_embedder(company)
    runtime.keep_weights(embedder.passport)
    heart.beat(weights=embedder.passport.weights[:200], fingerprint=embedder.passport.fingerprint)
    used = publication.model_in_use(company)
    if used is None or used.fingerprint == embedder.passport.fingerprint:
        publication.drop_candidate(company)
        return _update(build, heart, options, embedder)
    staying = _model_until_chosen(build, used)
    if staying:
        _update(build, heart, options, staying)
    return _make_candidate(build, heart, options, embedder, use=staying is None)


def _model_until_chosen(build: IndexBuild, used: ModelPassport) -> Embedder | None:
    """Return the model that searches go on with until somebody chooses the new one; None: that is used at once.

    So it is, too, where the weights of the model in use are gone: nothing can be searched with it.
    """
    if build.switch or settings.MODEL_SWITCH == "automatic" or build.company.name == runtime.DEMO:
        return None
    with suppress(ModelMismatch):
        return _embedder_of(build.company, used)
    return None


def _update(build: IndexBuild, heart: BuildHeart, options: BuildOptions, embedder: Embedder) -> BuildOutcome:
    """Build on the index that serves, and publish what becomes of it."""
    company = build.company
    catching_up = _CatchingUp(build, heart, embedder)
    made_from = company.generation

    def publish(draft: storage.Draft) -> str:
        catching_up.begin(after=company.live_sequence)
        return publication.publish(company, draft, made_from=made_from, confirm=catching_up.end, beat=heart.beat_if_due)

    outcome = _run(build, heart, options, embedder, str(company.pk), _files_before(company, heart.beat_if_due), publish)
    return catching_up.named_in(outcome)


def _make_candidate(
    build: IndexBuild, heart: BuildHeart, options: BuildOptions, embedder: Embedder, *, use: bool
) -> BuildOutcome:
    """Make an index with another model than that of the one that serves. use: it takes its place then."""
    company, made_from = build.company, build.company.generation
    newest = publication.newest_of(company, embedder.passport.fingerprint)
    before, owner = next_files(company, embedder, heart.beat_if_due), publication.candidate_owner(company)
    publish = partial(
        publication.publish_candidate, company, made_from=made_from, confirm=build.hold, beat=heart.beat_if_due
    )
    outcome = _run(build, heart, options, embedder, owner, before, publish)
    if newest and not outcome.published:  # there is nothing that it lacks
        publication.name_candidate(company, newest.name, made_from=made_from, confirm=build.hold)
    _compare(build, heart, outcome)
    if not use:
        return outcome
    catching_up = _CatchingUp(build, heart, embedder)
    catching_up.begin(after=company.live_sequence)
    publication.use_candidate(
        company, made_from=made_from, confirm=catching_up.end, beat=lambda: heart.report(outcome.progress)
    )
    return catching_up.named_in(outcome)


def _run(
    build: IndexBuild,
    heart: BuildHeart,
    options: BuildOptions,
    embedder: Embedder,
    owner: str,
    before: Path | None,
    publish: storage.Publish,
) -> BuildOutcome:
    company = build.company
    company.refresh_from_db(fields=["live_sequence"])
    with suppress(IndexUnusable):  # a damaged one is made anew
        company.live_sequence = max(company.live_sequence, publication.holds_changes_to(company))
    with SharedBuild(build, heart, fingerprint=embedder.passport.fingerprint) as units:
        return build_index(
            pictures_of(build),
            company.embeddings_directory,
            embedder=embedder,
            options=options,
            live_sequence=company.live_sequence,
            owner=owner,
            before=before,
            units=units,
            publish=publish,
            report=units.report,
        )


def _compare(build: IndexBuild, heart: BuildHeart, outcome: BuildOutcome) -> None:
    """Note in the build's row how the results of the candidate differ from those of the index that serves."""
    company = build.company
    assert company.candidate is not None
    noted: dict[str, Any] = {"candidate": company.candidate}
    with suppress(IndexUnusable):  # one that is damaged is compared with nothing
        before = storage.load(publication.index_files(company, beat=heart.beat_if_due))
        after = storage.load(publication.files_of(company, company.candidate, beat=heart.beat_if_due))
        overlap = measure_overlap(before, after, beat=lambda: heart.report(outcome.progress))
        neighbours = before.info.neighbours
        noted |= {
            "weights_before": (before.info.weights or "")[:200],
            "overlap": overlap.share if overlap else None,
            "overlap_tried": overlap.tried if overlap else 0,
            "neighbours_tried_before": neighbours.tried if neighbours else None,
            "neighbours_own_before": neighbours.own if neighbours else None,
        }
    heart.beat(**noted)


class _CatchingUp:
    """Embeds what was put meanwhile with the model of the index that is about to serve, so that none is hidden then.

    Most of it before the switch; in the switch itself, while no picture can be put, what came in the last moment.
    """

    def __init__(self, build: IndexBuild, heart: BuildHeart, embedder: Embedder) -> None:
        self._build, self._heart, self._embedder = build, heart, embedder
        self._after = 0
        self._unreadable: list[SkippedFile] = []

    def begin(self, *, after: int) -> None:
        """after: the last live change that the index holds which is about to serve."""
        self._after = after
        self._embed(beat=self._heart.beat_if_due)

    @contextmanager
    def end(self) -> Iterator[None]:
        """Raises JobCancelled and LeaseLost."""
        with self._build.hold():
            Company.objects.select_for_update().filter(pk=self._build.company_id).first()
            self._embed()
            yield

    def named_in(self, outcome: BuildOutcome) -> BuildOutcome:
        """Return the outcome with the pictures that could not be read."""
        count, progress = len(self._unreadable), outcome.progress
        counted = replace(progress, found=progress.found + count, skipped=progress.skipped + count)
        return replace(outcome, progress=counted, skipped_files=[*outcome.skipped_files, *self._unreadable])

    def _embed(self, beat: Callable[[], None] = lambda: None) -> None:
        company = self._build.company
        used = publication.model_in_use(company)
        self._unreadable += embed_missing(
            company, self._embedder, after=self._after, used=used.fingerprint if used else None, beat=beat
        )


def next_files(company: Company, embedder: Embedder, beat: Callable[[], None] = lambda: None) -> Path | None:
    """Return where the files lie of which the company's next build may keep something; None where there are none.

    They serve, or are the newest that the same model made. beat: called now and then while they are fetched.
    """
    used, fingerprint = publication.model_in_use(company), embedder.passport.fingerprint
    newest = publication.newest_of(company, fingerprint) if used and used.fingerprint != fingerprint else None
    if newest:
        return publication.files_of(company, newest.name, beat=beat)
    return _files_before(company, beat)


def _files_before(company: Company, beat: Callable[[], None]) -> Path | None:
    """Return where the files that serve the company lie; None where those that its row names are gone.

    Where they are damaged in the store, the newest that are not: they keep the ids that no path gives.
    """
    try:
        return publication.index_files(company, beat=beat)
    except IndexNotBuilt:
        return None
    except IndexCorrupt as error:
        logger.warning("The index of %s is made anew: %s", company, error)
    for generation in publication.generations(company):
        with suppress(IndexUnusable):
            return publication.files_of(company, generation.name, beat=beat)
    return None


def _fold(build: IndexBuild, heart: BuildHeart) -> BuildOutcome:
    """Publish the company's index with its live changes as a new generation.

    Raises ModelMismatch where a change was made with another model than the index: a build embeds it again.
    """
    company = build.company
    company.refresh_from_db(fields=publication.STATE)
    made_from = company.generation
    files = publication.index_files(company, beat=heart.beat_if_due)
    unreadable = _embed_hidden(build, heart)
    index = overlay.live_index_or_empty(company, of_files=True)

    def report(written: int) -> None:
        heart.report(BuildProgress(found=len(index), reused=written))

    storage.require_undamaged(files, copy=False, beat=lambda: report(0))
    info = _info_of_fold(company, index)
    heart.beat(weights=info.weights or "")
    made = republish(
        index,
        company.embeddings_directory,
        info=info,
        embeddings_npy=settings.WRITE_EMBEDDINGS_NPY,
        report=report,
        publish=partial(publication.publish, company, made_from=made_from, confirm=build.hold, beat=heart.beat_if_due),
    )
    progress = BuildProgress(found=len(index) + len(unreadable), reused=len(index), skipped=len(unreadable))
    return BuildOutcome(progress, unreadable, len(index), full_reason="", published=True, neighbours=made.neighbours)


def _embed_hidden(build: IndexBuild, heart: BuildHeart) -> list[SkippedFile]:
    """Embed what the index hides because it was put with another model; return what cannot be read.

    So it is where another index took the place of one that is gone, or where a company has no index yet and the weights
    of its pictures are gone.
    """
    company = build.company
    index = overlay.live_index_or_empty(company)
    used, after = index.info.passport, index.info.holds_changes_to
    if used is None or not company.live_changes.missing_from(after).lacking(used.fingerprint).exists():
        return []
    embedder = _embedder_of(build.company, used)
    unreadable = embed_missing(company, embedder, after=after, used=used.fingerprint, beat=heart.beat_if_due)
    company.refresh_from_db(fields=publication.STATE)
    return unreadable


def _info_of_fold(company: Company, index: ImageIndex) -> IndexInfo:
    info = index.info
    passport = runtime.embedder().passport if info.fingerprint is None and not len(index.records) else info.passport
    if passport:
        info = replace(info, weights=passport.weights, fingerprint=passport.fingerprint)
        if company.live_changes.missing_from(info.holds_changes_to).lacking(passport.fingerprint).exists():
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


def pictures_of(build: IndexBuild) -> PictureFolder:
    """Return where the pictures lie that a build is of. Raises ValidationError."""
    if build.image_folder:  # an operator named it on the command line
        return DiskFolder(Path(build.image_folder))
    build.company.clean()  # the folder may have become a link that leads out of the allowed roots
    return folder_of(build.company)


def next_embedder(company: Company) -> Embedder:
    """Return the embedder of the model that the company's next build uses. Raises StopRequested."""
    if company.own_model:
        own = runtime.find_passport(company.own_model)
        return _embedder_of(company, own or ModelPassport("that the company uses of its own", company.own_model))
    with _stopped_while_loading(company):
        return runtime.embedder_of_demo() if company.name == runtime.DEMO else runtime.embedder()


def embedder_of_unit(unit: BuildUnit) -> Embedder:
    """Return the embedder of the model that a unit is to be embedded with. Raises StopRequested and ModelMismatch."""
    found = runtime.find_passport(unit.fingerprint)
    return _embedder_of(unit.company, found or ModelPassport("of a build on another machine", unit.fingerprint))


def _embedder_of(company: Company, passport: ModelPassport) -> Embedder:
    with _stopped_while_loading(company):
        return runtime.embedder_of(passport)


@contextmanager
def _stopped_while_loading(company: Company) -> Iterator[None]:
    try:
        yield
    except LoadingStopped as error:
        raise StopRequested(f"The build of {company} was stopped while it loaded the model") from error
