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
    """A build would replace the index that was rolled back to; the message says what to do."""


def roll_back(
    company: Company, generation: str | None = None, *, cancel_build: bool = False, by: audit.Actor | None = None
) -> storage.Generation:
    """Make the company use an earlier index, by default the previous one; return it.

    Live changes since that index was made are kept: they are applied on top of it.
    cancel_build: cancel an active build, which would replace the index.
    Raises BuildActive, IndexNotBuilt if there is no earlier index, IndexCorrupt and PublishRefused.
    """
    company.refresh_from_db(fields=publication.STATE)
    target = _chosen(company, generation)
    confirm = partial(_noted_without_build, company, target.name, cancel_build=cancel_build, by=by)
    publication.publish_again(company, target.name, made_from=company.generation, confirm=confirm)
    fold_wanted.send_robust(Company, company=company)
    return replace(target, published=True)


def now_uses(company: Company, index: storage.Generation) -> str:
    """Return which index the company uses after roll_back, in words."""
    made = f"the index of {index.made_at:%-d %b %H:%M} UTC" if index.made_at else "an index of unknown date"
    pictures = index.info.total_images
    return f"{company} now uses {made} ({pictures:,} picture{'' if pictures == 1 else 's'})"


def _chosen(company: Company, name: str | None) -> storage.Generation:
    """Return the generation of this name, by default the previous one. Raises IndexNotBuilt."""
    known = publication.generations(company)
    if name is not None:
        chosen = [each for each in known if each.name == name]
        missing = f"Index version {name} of {company} no longer exists"
    else:
        current = publication.published_generation(company)
        chosen = [each for each in known if current is not None and each.name < current]
        missing = f"{company} has no earlier index: IMAGESEARCH_KEEP_GENERATIONS sets how many are kept"
    if not chosen:
        raise IndexNotBuilt(missing)
    return chosen[0]


@contextmanager
def _noted_without_build(company: Company, name: str, *, cancel_build: bool, by: audit.Actor | None) -> Iterator[None]:
    """Record who rolls back; ensure that no build publishes in the block and none active now publishes after it."""
    with transaction.atomic():
        for build in company.builds.active():
            if not cancel_build:
                raise BuildActive(
                    f"Build {build.pk} of {company} is {build.status} and would replace the index: "
                    "wait until it has finished, or cancel it (rollback_index --cancel-build)"
                )
            build.cancel(by=by)
        yield
        audit.record(by, audit.Action.INDEX_ROLLED_BACK, company, f"to {name}")
