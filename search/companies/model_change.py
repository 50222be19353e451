"""When a server's process loads its model, and the demo, which follows the weights that are on the machine.

Any other company keeps its model until an operator builds its index anew.
"""

import logging
import threading
import time
from contextlib import suppress

from django.db import DatabaseError, connection

from search import publication, runtime
from search.engine.errors import EngineError, IndexUnusable, LoadingStopped, StillUnavailable, WeightsUnavailable
from search.engine.model.passport import ModelPassport
from search.engine.model.weights import BUILTIN
from tenants.models import Company

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 5.0  # for a file; runtime asks the network more seldom


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
    """Return the demo if its index says that another model made it."""
    demo = Company.objects.active().filter(name=runtime.DEMO).first()
    try:
        made_by = publication.info(demo).passport if demo else None
    except IndexUnusable:
        return None
    return demo if made_by and made_by.fingerprint != passport.fingerprint else None
