"""The search for a company's duplicates, as workers carry it out. What it has found is read by search/duplicates.py."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Event

from django.conf import settings
from PIL import Image

from search import belongings, duplicates, overlay, publication
from search.engine.errors import IndexNotBuilt
from search.engine.index.duplicate_search import find_pairs
from search.engine.index.duplicates import ALL, QUICK, DuplicatePairs, Progress
from search.engine.index.index import ImageIndex
from search.engine.index.records import ImageRecord
from search.engine.pictures.decode import open_image
from search.engine.pictures.second_look import MIN_SIDE
from search.folders import folder_of
from search.heartbeat import Heart, Rate
from search.jobs import outcome_recorded
from search.outages import outlast
from search.stopping import StopRequested, stop_on_signal
from tenants.models import Company, DuplicateSearch

COMPARING, LOOKING = "comparing all pictures", "looking at likely pairs"


def look_at_new(company: Company) -> None:
    """Have what is new in the company's index compared with all, if somebody has looked for its duplicates before."""
    if duplicates.has_looked(company):
        DuplicateSearch.objects.ask(company)


def carry_out(
    search: DuplicateSearch,
    *,
    others_wait: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    requeue: bool = True,
) -> None:
    """Find the duplicates of the search's company, and give the search its outcome.

    search: claimed by the caller with search.start(). others_wait: asked now and then; once it says so, the search is
    handed back, and goes on from what it has found when nothing else waits. requeue: as of a build.
    Whatever goes wrong is recorded in the row and raised again. Raises StopRequested and JobStopped as a build does.
    """
    with outcome_recorded(search, requeue=requeue):
        with stop_on_signal() as stop:
            found = _find(search, _SearchHeart(search, stop, others_wait, on_progress))
        outlast(partial(search.succeed, pairs=found.count(ALL), stage="", done=0, total=0))


def _find(search: DuplicateSearch, heart: "_SearchHeart") -> DuplicatePairs:
    company = search.company
    company.refresh_from_db(fields=publication.STATE)
    with suppress(IndexNotBuilt):
        publication.index_files(company, beat=heart.beat_if_due)
    found = find_pairs(
        _index_of(company),
        open_picture=partial(_open, company),
        known=belongings.read_duplicates(company),
        levels=ALL if search.edited else QUICK,
        report=heart.report,
        keep=partial(_keep, search),
    )
    _keep(search, found)
    return found


def _index_of(company: Company) -> ImageIndex:
    try:
        return overlay.live_index_of_files(company)
    except IndexNotBuilt as error:
        raise IndexNotBuilt(f"{company} has no index yet, and so nothing to compare: build it first") from error


def _keep(search: DuplicateSearch, found: DuplicatePairs) -> None:
    """Write what was found so far, unless the search is no longer the caller's, or its company was deleted."""

    def write() -> None:
        with search.hold():
            belongings.write_duplicates(search.company, found)

    outlast(write)


def _open(company: Company, record: ImageRecord) -> Image.Image:
    try:
        file = folder_of(company).open(record.path)
    except ValueError as error:  # a name that no file system can hold
        raise OSError(str(error)) from error
    with file:
        return open_image(file, name=record.path, max_pixels=settings.MAX_PIXELS, min_side=MIN_SIDE)


class _SearchHeart(Heart):
    """That of a search for duplicates, which gives way to others."""

    def __init__(
        self,
        search: DuplicateSearch,
        stop: Event,
        others_wait: Callable[[], bool],
        on_progress: Callable[[Progress], None],
    ) -> None:
        super().__init__(search, stop)
        self._others_wait, self._on_progress = others_wait, on_progress
        self._stage, self._rate = "", Rate()

    def report(self, progress: Progress) -> None:
        """Raises StopRequested, JobCancelled and LeaseLost."""
        self.require_going_on()
        self._on_progress(progress)
        stage = LOOKING if progress.looking else COMPARING
        if stage != self._stage:
            self._stage, self._rate = stage, Rate()
        self._rate.update(progress.done)
        if not self.is_due:
            return
        per_second = self._rate.per_second
        left = (progress.total - progress.done) / per_second if per_second else None
        self.beat(stage=stage, done=progress.done, total=progress.total, seconds_left=left)
        if self._others_wait():
            raise StopRequested("The search for duplicates lets others go first; what it has found is kept")
