"""How a job that a worker carries out gets its outcome, whatever goes wrong in it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from django.core.exceptions import ValidationError

from search.engine.errors import StoreRefused, StoreUnavailable
from search.outages import is_outage, outlast
from search.stopping import StopRequested
from tenants.models import Job, JobStopped

logger = logging.getLogger(__name__)


@contextmanager
def outcome_recorded(job: Job, *, requeue: bool = True) -> Iterator[None]:
    """Record in the job's row what the block raises, and raise it again; the block itself records its success.

    On StopRequested the job is handed back to the queue, or cancelled where requeue is false. After a time without the
    database, or where the store does not answer, it is handed back as well, and JobStopped raised. Raises JobCancelled
    and LeaseLost where the job is no longer the caller's.
    """
    try:
        yield
    except StopRequested:
        if requeue:
            job.hand_back()
        else:
            job.abandon()
        raise
    except JobStopped:
        raise
    except BaseException as error:
        if requeue and is_outage(error):
            outlast(job.hand_back)
            raise JobStopped(
                f"The {job.KIND} of {job.company} goes on anew: the database was locked or away"
            ) from error
        if requeue and isinstance(error, StoreUnavailable) and not isinstance(error, StoreRefused):
            logger.warning("The %s of %s goes on in a moment: %s", job.KIND, job.company, error)
            outlast(partial(job.hand_back, at_once=False))
            raise JobStopped(f"The {job.KIND} of {job.company} goes on in a moment: {error}") from error
        job.fail(_reason(error))  # or say that it is no longer the caller's, whose files others may have removed
        logger.exception("The %s of %s failed", job.KIND, job.company)
        raise


def _reason(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(error.messages)
    return str(error) or type(error).__name__
