"""Going back to an earlier index of a company."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from django.db import transaction

from search import publication
from search.engine import storage
from search.engine.errors import IndexNotBuilt
from tenants import audit
from tenants.models import Company
from tenants.signals import fold_wanted


class BuildActive(Exception):
    """A build that would replace the index that is gone back to; the message tells the way out."""


def roll_back(
    company: Company, generation: str | None = None, *, cancel_build: bool = False, by: audit.Actor | None = None
) -> storage.Generation:
    """Let searches of the company use an earlier index, by default the one before the present; return it.

    Pictures put or deleted one at a time since that index was made stay put and deleted: they are laid over it.
    cancel_build: an active build is cancelled, because it would replace the index.
    Raises BuildActive, IndexNotBuilt where there is nothing to go back to, IndexCorrupt and PublishRefused.
    """
    company.refresh_from_db(fields=publication.STATE)
    target = _chosen(company, generation)
    confirm = partial(_noted_without_build, company, target.name, cancel_build=cancel_build, by=by)
    publication.publish_again(company, target.name, made_from=company.generation, confirm=confirm)
    fold_wanted.send_robust(Company, company=company)
    return replace(target, published=True)


def _chosen(company: Company, name: str | None) -> storage.Generation:
    """Return the generation of this name, by default the one before the one that serves. Raises IndexNotBuilt."""
    known = publication.generations(company)
    if name is not None:
        chosen = [each for each in known if each.name == name]
        missing = f"There is no index {name} of {company} any more"
    else:
        current = publication.published_generation(company)
        chosen = [each for each in known if current is not None and each.name < current]
        missing = (
            f"{company} has no earlier index: "
            "IMAGESEARCH_KEEP_GENERATIONS says how many are kept when another is published"
        )
    if not chosen:
        raise IndexNotBuilt(missing)
    return chosen[0]


@contextmanager
def _noted_without_build(company: Company, name: str, *, cancel_build: bool, by: audit.Actor | None) -> Iterator[None]:
    """Note who goes back, and see to it that no build publishes in the block, nor, of those active now, after it."""
    with transaction.atomic():
        for build in company.builds.active():
            if not cancel_build:
                raise BuildActive(
                    f"Build {build.pk} of {company} is {build.status} and would replace the index: "
                    "wait for it, or cancel it, as rollback_index --cancel-build does"
                )
            build.cancel(by=by)
        yield
        audit.record(by, audit.Action.INDEX_ROLLED_BACK, company, f"to {name}")
