"""Which model a company's searches use, and how they come to use another one.

A build with another model than the index that serves makes a candidate: see search/builds.py. Here is what people ask
for: to use the new model, and to go back to the model before. And when a server's process loads its model, and the
demo, which follows the weights that are on the machine.
"""

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from django.conf import settings
from django.db import DatabaseError, connection, transaction

from search import belongings, publication, runtime
from search.engine import storage
from search.engine.errors import (
    EngineError,
    IndexNotBuilt,
    IndexUnusable,
    LoadingStopped,
    StillUnavailable,
    StoreUnavailable,
    WeightsUnavailable,
)
from search.engine.model.passport import ModelPassport
from search.engine.model.weights import BUILTIN
from tenants import audit
from tenants.models import Company, IndexBuild, LiveChange

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 5.0  # for a file; runtime asks the network more seldom


class NoOtherModel(Exception):
    """There is no new model to use, or none to go back to; the message says so."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the results of a candidate differ from those of the index that serves."""

    overlap: float | None  # share, 0 to 1, of the first ten results that both have; None where nothing was compared
    overlap_tried: int  # pictures of both that were searched for
    neighbours: float | None  # per cent of the candidate's pictures whose nearest neighbour lies in their own folder
    neighbours_before: float | None  # of those of the index that serves


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a company stands between two models."""

    used: ModelPassport | None  # made the index that searches use; None: there is none, or nobody recorded it
    missing: str  # says that its weights are not on this machine, so that searches answer 503; "" where they are
    wanted: ModelPassport | None  # what the next build uses; None where its weights are not on this machine
    keeps_own: bool  # wanted is a model of its own instead of the configured one, since somebody went back to it
    candidate: storage.Generation | None  # made with another model, waits to be used
    comparison: Comparison | None  # of the candidate
    before: ModelPassport | None  # what step_back() goes back to

    @property
    def is_current(self) -> bool:
        """Whether the index that serves is of the model that the next build uses."""
        return bool(self.used and self.wanted and self.used.fingerprint == self.wanted.fingerprint)

    @property
    def has_new(self) -> bool:
        """Whether there is a new model that use_new() would have searches use."""
        return self.candidate is not None or self.keeps_own


def stand(company: Company) -> Stand:
    """Return where the company stands, without loading an index or a model. Raises IndexCorrupt.

    company: freshly read from the database.
    """
    used = _used(company)
    return Stand(
        used=used,
        missing=runtime.missing_weights(used) if used else "",
        wanted=runtime.find_passport(company.own_model) if company.own_model else runtime.configured_model(),
        keeps_own=bool(company.own_model),
        candidate=_candidate(company),
        comparison=_comparison(company),
        before=_before(company),
    )


def _used(company: Company) -> ModelPassport | None:
    try:
        return publication.info(company).passport
    except IndexNotBuilt:
        return None


def _candidate(company: Company) -> storage.Generation | None:
    if company.candidate is None:
        return None
    known = publication.generations(company)
    return next((each for each in known if each.name == company.candidate), None)


def _comparison(company: Company) -> Comparison | None:
    build = company.builds.filter(candidate=company.candidate).first() if company.candidate else None
    if build is None:
        return None
    return Comparison(
        overlap=build.overlap,
        overlap_tried=build.overlap_tried or 0,
        neighbours=_neighbours(build.neighbours_tried, build.neighbours_own),
        neighbours_before=_neighbours(build.neighbours_tried_before, build.neighbours_own_before),
    )


def _neighbours(tried: int | None, own: int | None) -> float | None:
    return 100 * (own or 0) / tried if tried else None


def _before(company: Company) -> ModelPassport | None:
    if not company.model_before or company.own_model:
        return None
    return runtime.find_passport(company.model_before)


def use_new(company: Company, *, by: audit.Actor) -> IndexBuild:
    """Have searches use the new model, the configured one, and return the queued build that does it.

    The build goes on from the candidate where there is one. company: freshly read from the database.
    Raises NoOtherModel where searches use that model already, and IndexCorrupt.
    """
    now = stand(company)
    if now.is_current and not now.keeps_own:
        raise NoOtherModel(f"{company} uses the new model already")
    with transaction.atomic():
        audit.record(by, audit.Action.MODEL_CHOSEN, company, f"the new one: {runtime.configured_model()}")
        return _queue_build(company, own_model="", by=by)


def step_back(company: Company, *, by: audit.Actor) -> IndexBuild:
    """Have searches use the model before the last change, and return the queued build that does it.

    Builds stay with that model until use_new(). company: freshly read from the database.
    Raises NoOtherModel where there is none, and IndexCorrupt.
    """
    before = stand(company).before
    if before is None:
        raise NoOtherModel(f"{company} has no model before to go back to")
    with transaction.atomic():
        audit.record(by, audit.Action.MODEL_CHOSEN, company, f"the one before: {before}")
        return _queue_build(company, own_model=before.fingerprint, by=by)


def _queue_build(company: Company, *, own_model: str, by: audit.Actor) -> IndexBuild:
    build = company.queue_build(switch=True, by=by)  # before the company's row, as builds that publish lock the two
    Company.objects.filter(pk=company.pk).update(own_model=own_model)
    return build


def look_after_weights() -> None:
    """Keep copies of the weights that indexes need and that are at hand, and remove those that nothing needs."""
    try:
        passports = {info.passport for info in belongings.infos_of_all()}
        for passport in filter(None, passports):
            runtime.keep_weights(passport)
        runtime.drop_kept_weights({passport.fingerprint for passport in filter(None, passports)} | _expected())
    except (OSError, StoreUnavailable):
        logger.exception("The copies of weights could not be looked after")


def _expected() -> set[str]:
    """Return the fingerprints of models that may be asked for, whatever lies on the disk."""
    needed: set[str] = set()
    for column in ("own_model", "model_before"):
        needed |= set(Company.objects.values_list(column, flat=True).distinct())
    for column in ("fingerprint", "second_fingerprint"):
        needed |= set(LiveChange.objects.order_by().values_list(column, flat=True).distinct())
    needed |= set(IndexBuild.objects.active().values_list("fingerprint", flat=True))
    configured = runtime.configured_model()
    return needed | ({configured.fingerprint} if configured else set())


def warm_up_now_or_later(*, look_again_seconds: float = _LOOK_AGAIN_SECONDS) -> None:
    """Load the model and run it once; where it is not to be had, the log says why once and a thread waits for it.

    Searches of the demo go on with the built-in weights meanwhile, others answer 503, and everything else works. Once
    the model is there, the demo moves to it. A process that is asked to end while it loads the model leaves it at that.
    """
    told: set[str] = set()
    try:
        if not _warms_up(told):
            _warm_up_fallback()
            _wait_for_model(told, look_again_seconds)
    except LoadingStopped as error:
        logger.info("%s while it loaded the model", error)


def _wait_for_model(told: set[str], look_again_seconds: float) -> None:
    def wait() -> None:
        while not _warms_up(told):
            time.sleep(look_again_seconds)
        if settings.READ_ONLY:
            return
        try:
            move_demo()
        except DatabaseError:
            logger.exception("The demo could not move to the weights that are there now")
        finally:
            connection.close()

    threading.Thread(target=wait, name="warm-up", daemon=True).start()


def _warms_up(told: set[str]) -> bool:
    """told: what need not be said again, added to."""
    try:
        runtime.warm_up()
    except LoadingStopped:
        raise
    except EngineError as error:
        if str(error) not in told and not isinstance(error, StillUnavailable):
            logger.error("%s", error)
        told.add(str(error))
        return False
    return True


def _warm_up_fallback() -> None:
    """Load the built-in weights where the demo's index was made with them."""
    try:
        demo = Company.objects.active().filter(name=runtime.DEMO).first()
        if demo and publication.info(demo).weights == BUILTIN:
            runtime.warm_up(runtime.builtin_embedder())
    except LoadingStopped:
        raise
    except (EngineError, DatabaseError) as error:
        logger.error("The demo cannot be searched: %s", error)


def is_demo_outdated() -> bool:
    """Tell whether another model made the demo's index than a build would use now; for that, weights are downloaded."""
    return _demo_of_another_model(runtime.passport_of_demo()) is not None


def move_demo() -> None:
    """Queue a build of the demo if the configured weights are on this machine and another model made its index."""
    with suppress(WeightsUnavailable):
        weights = runtime.configured_weights()
        demo = _demo_of_another_model(weights.passport) if weights else None
        if weights and demo and not demo.builds.active().exists():
            demo.queue_build()
            logger.info("The demo moves to the weights %s", weights.passport)


def _demo_of_another_model(passport: ModelPassport) -> Company | None:
    """Return the demo if its index says that another model made it, and nobody went back to that one."""
    demo = Company.objects.active().filter(name=runtime.DEMO, own_model="").first()
    try:
        made_by = publication.info(demo).passport if demo else None
    except (IndexUnusable, StoreUnavailable):
        return None
    return demo if made_by and made_by.fingerprint != passport.fingerprint else None
