"""Going back to an earlier index of a company."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from django.db import transaction

from search import pictures
from search.engine import storage
from tenants.models import Company


class BuildActive(Exception):
    """A build that would replace the index that is gone back to; the message tells the way out."""


def roll_back(company: Company, generation: str | None = None, *, cancel_build: bool = False) -> storage.Generation:
    """Let searches of the company use an earlier index, by default the one before the present; return it.

    Pictures put or deleted one at a time since that index was made stay put and deleted: they are laid over it.
    cancel_build: an active build is cancelled, because it would replace the index.
    Raises BuildActive, IndexNotBuilt where there is nothing to go back to, IndexCorrupt and PublishRefused.
    """
    confirm = partial(_without_build, company, cancel=cancel_build)
    rolled_back_to = storage.roll_back(company.embeddings_directory, generation, confirm=confirm)
    if company.live_changes.filter(sequence__gt=rolled_back_to.info.live_sequence or 0).exists():
        pictures.fold_later(company, changes=1)
    return rolled_back_to


@contextmanager
def _without_build(company: Company, *, cancel: bool) -> Iterator[None]:
    """See to it that no build publishes in the block, nor, of those that are active now, after it."""
    with transaction.atomic():
        for build in company.builds.active():
            if not cancel:
                raise BuildActive(
                    f"Build {build.pk} of {company} is {build.status} and would replace the index: "
                    "wait for it, or cancel it, as rollback_index --cancel-build does"
                )
            build.cancel()
        yield
