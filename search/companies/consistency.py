"""Where a company's row and its files do not agree: a backup was restored, a process killed, files moved by hand."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings

from search import belongings, publication
from search.engine import storage
from search.engine.errors import EngineError, IndexCorrupt, IndexNotBuilt
from tenants.models import Company


def disagreements(company: Company) -> list[str]:
    """Return where they do not agree, each with the way out, as an operator reads it. No index is loaded.

    company: freshly read from the database.
    """
    try:
        return [*_gone(company), *_candidate(company), *_ahead(company), *_link(company), *_protection(company)]
    except (EngineError, OSError) as error:
        return [f"Its files cannot be compared with the database: {error}"]


def older_index(company: Company) -> str:
    """Return in sentences that the company uses an older index than its newest; "" where it uses that.

    So it is after a rollback, a killed build, or with a database older than the disk.
    """
    try:
        of_all_models = publication.generations(company)
    except (EngineError, OSError):  # disagreements() tells
        return ""
    used = next((each for each in of_all_models if each.published), None)
    known = [each for each in of_all_models if used and each.info.fingerprint == used.info.fingerprint]
    if used is None or used == known[0]:
        return ""
    made = f", of {used.made_at:%-d %b %Y, %H:%M} UTC" if used.made_at else ""
    pictures = f"{used.info.total_images:,} picture{'' if used.info.total_images == 1 else 's'}"
    newest = f"the newest has {known[0].info.total_images:,}"
    return f"{company} uses an older index{made} ({pictures}; {newest}). The next upload or build replaces it"


def _gone(company: Company) -> Iterator[str]:
    """Yield that the generation which the row names is gone, and what is used instead."""
    if company.generation is None:
        return
    if publication.has_generation(company, company.generation):
        return
    place = "store" if settings.STORE else "disk"
    try:
        instead = publication.index_directory(company).name
    except IndexNotBuilt as error:
        yield str(error)
    else:
        yield (
            f"The index {company.generation} is gone from the {place}. {instead} is used instead; "
            "the next start of build_worker records this in the database"
        )


def _candidate(company: Company) -> Iterator[str]:
    """Yield that the index which waits to be used cannot be."""
    if company.candidate is None:
        return
    if not publication.has_generation(company, company.candidate):
        yield (
            f"The index {company.candidate}, which another model made and which waits to be used, is gone from the "
            "disk: the next build makes it anew"
        )


def _ahead(company: Company) -> Iterator[str]:
    """Yield that the disk holds a later state than the database."""
    held = publication.changes_on_disk(company)
    if held > company.live_sequence:
        yield (
            f"The database is older than the disk: it has counted {company.live_sequence} live changes, "
            f"an index on the disk contains {held}. New changes are counted from there; "
            f"build_embeddings --company {company} brings the index in line with the pictures"
        )


def _link(company: Company) -> Iterator[str]:
    """Yield where embeddings/<name> is not the link that the row asks for; with a store there is none."""
    if settings.STORE:
        return
    directory, used = company.embeddings_directory, publication.published_generation(company)
    if company.generation is None or used is None:
        return
    if storage.is_link_prepared(directory, used):
        yield f"The publication of {used} was cut short: the next start of build_worker completes it"
    elif storage.is_plain(directory):
        yield (
            f"{directory} is a directory of its own and is not used. To use it in place of {used}, "
            f"run manage.py adopt_companies {company}"
        )
    elif not directory.is_symlink():
        yield f"{directory} is gone, so {company} is not listed, but {used} is still searched. A build puts it back"
    elif storage.linked_generation(directory) != used:
        yield f"{directory} leads to {directory.readlink()}, but the index that is used is {used}"


def _protection(company: Company) -> Iterator[str]:
    try:
        card = belongings.read_company_card(company)
    except IndexCorrupt as error:
        yield f"{error}. Saving {company} in the admin writes it anew"
        return
    if card is None:
        return
    kept = {name: card.get(name) for name in Company.PROTECTION}
    if kept != company.protection:
        yield (
            f"company.json, kept beside the index, says {_words(kept)}; the database says {_words(company.protection)}."
            f" Saving {company} in the admin makes the two agree"
        )


def _words(protection: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in protection.items())
