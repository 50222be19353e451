"""Going back to an earlier index of a company."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from django.db import transaction

from search import publication, runtime
from search.engine import storage
from search.engine.errors import IndexNotBuilt
from search.live_vectors import embed_missing
from tenants import audit
from tenants.models import Company
from tenants.signals import fold_wanted, index_published

logger = logging.getLogger(__name__)


class BuildActive(Exception):
    """A build would replace the index that was rolled back to; the message says what to do."""


def roll_back(
    company: Company, generation: str | None = None, *, cancel_build: bool = False, by: audit.Actor | None = None
) -> storage.Generation:
    """Make the company use an earlier index, by default the previous one; return it.

    Live changes since that index was made are kept: they are applied on top of it.
    cancel_build: cancel an active build, which would replace the index.
    Where another model made that index, the changes that it lacks are embedded with it, and builds stay with it.
    Raises BuildActive, IndexNotBuilt if there is no earlier index, IndexCorrupt, PublishRefused, and ModelMismatch
    where the weights of its model are gone.
    """
    company.refresh_from_db(fields=publication.STATE)
    target = _chosen(company, generation)
    embed = _embed_with_model_of(company, target)
    embed()
    confirm = partial(_noted_without_build, company, target, embed, cancel_build=cancel_build, by=by)
    publication.publish_again(company, target.name, made_from=company.generation, confirm=confirm)
    fold_wanted.send_robust(Company, company=company)
    index_published.send_robust(Company, company=company)
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
        chosen = [each for each in known if each.name == name != company.candidate]
        missing = f"Index version {name} of {company} no longer exists"
    else:
        current = publication.published_generation(company)
        earlier = [each for each in known if current is not None and each.name < current]
        chosen = [each for each in earlier if each.name != company.candidate]
        missing = f"{company} has no earlier index: IMAGESEARCH_KEEP_GENERATIONS sets how many are kept"
    if not chosen:
        raise IndexNotBuilt(missing)
    return chosen[0]


def _embed_with_model_of(company: Company, target: storage.Generation) -> Callable[[], None]:
    """Return what embeds the changes that the index to go back to lacks, where another model made it."""
    used, passport = publication.model_in_use(company), target.info.passport
    if used is None or passport is None or used.fingerprint == passport.fingerprint:
        return lambda: None
    embedder = runtime.embedder_of(passport)

    def embed() -> None:
        after = target.info.holds_changes_to
        for file in embed_missing(company, embedder, after=after, used=used.fingerprint):
            logger.warning("%s of %s is hidden: %s", file.path, company, file.reason)

    return embed


def _model_to_stay_with(target: storage.Generation) -> str:
    """Return the fingerprint of the model that builds use instead of the configured one; "" where that made target."""
    configured, passport = runtime.configured_model(), target.info.passport
    return passport.fingerprint if passport and configured and passport.fingerprint != configured.fingerprint else ""


@contextmanager
def _noted_without_build(
    company: Company,
    target: storage.Generation,
    embed: Callable[[], None],
    *,
    cancel_build: bool,
    by: audit.Actor | None,
) -> Iterator[None]:
    """Record who rolls back; ensure that no build publishes in the block and none active now publishes after it."""
    with transaction.atomic():
        for build in company.builds.active():
            if not cancel_build:
                raise BuildActive(
                    f"Build {build.pk} of {company} is {build.status} and would replace the index: "
                    "wait until it has finished, or cancel it (rollback_index --cancel-build)"
                )
            build.cancel(by=by)
        own_model = _model_to_stay_with(target)
        Company.objects.filter(pk=company.pk).update(own_model=own_model)  # from now on no picture is put
        embed()
        yield
        audit.record(by, audit.Action.INDEX_ROLLED_BACK, company, f"to {target.name}")
