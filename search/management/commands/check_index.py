import logging
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from search import collections, publication
from search.companies.consistency import disagreements, older_index
from search.engine.errors import EngineError, IndexNotBuilt
from search.engine.index.collection import CollectionIndex
from search.engine.storage.checkup import Checkup, examine
from search.folders import folder_of
from search.management.companies import find_company
from search.management.operator_command import OperatorCommand
from tenants.models import Company

logger = logging.getLogger(__name__)


class Command(OperatorCommand):
    help = (
        "Check indexes, every file and every vector; the exit status is 1 if one is damaged. "
        "Also reports where files and database do not agree."
    )
    only_reads = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("companies", nargs="*", metavar="company", help="companies to check")
        parser.add_argument("--all", action="store_true", help="check all companies")

    def handle(self, *, companies: list[str], **options: Any) -> None:
        if bool(companies) == options["all"]:
            raise CommandError("Name the companies, or give --all")
        chosen = list(Company.objects.all()) if options["all"] else [find_company(name) for name in companies]
        damaged = [company.name for company in chosen if not self._check(company)]
        if damaged:
            raise CommandError(f"{len(damaged)} of {len(chosen)} companies have a damaged index: {', '.join(damaged)}")

    def _check(self, company: Company) -> bool:
        """Print what is wrong with the company's index, or that nothing is; return whether it is sound, or none.

        That files and database do not agree is printed and no damage: searches find a whole index.
        """
        try:
            company.refresh_from_db()  # the checks of the others took their time
            problems, summary, unknown = _look_over(company)
            differences = [
                *unknown,
                *disagreements(company),
                *filter(None, [older_index(company), company.folder_problem()]),
            ]
        except Company.DoesNotExist:
            self.stdout.write(f"{company}: deleted meanwhile")
            return True
        except Exception as error:  # whatever is wrong with one company, the others are checked
            logger.exception("The check of %s broke off", company)
            problems, summary, differences = [f"{type(error).__name__}: {error}"], "", []
        if problems:
            ways_out = f"rollback_index {company}, or build_embeddings --company {company} --full"
            self.stdout.write(self.style.ERROR(f"{company}: DAMAGED. {'; '.join(problems)}. To repair: {ways_out}"))
        else:
            self.stdout.write(f"{company}: {summary}")
        for difference in differences:
            if difference not in problems:
                self.stdout.write(self.style.WARNING(f"{company}: WARNING. {difference}"))
        return not problems


def _look_over(company: Company) -> tuple[list[str], str, list[str]]:
    """Return what is wrong with the index that serves the company, a summary where nothing is, what nobody knows."""
    while True:
        unknown = []
        try:
            checkup = examine(publication.index_files(company), pictures=folder_of(company))
            problems, summary = [*checkup.problems, *_collection_problems(company)], f"ok, {_summary(checkup)}"
            if checkup.pictures_missing is None:
                unknown = ["Its pictures could not be looked for: the object store does not answer, or refuses"]
        except IndexNotBuilt as error:
            problems, summary = ([str(error)] if company.generation else []), "no index yet"
        checked = company.generation
        company.refresh_from_db(fields=publication.STATE)
        if not problems or company.generation == checked:  # else it was dropped while it was looked at
            return problems, summary, unknown


def _collection_problems(company: Company) -> list[str]:
    """Return what is wrong with the collection of a company that Milvus searches."""
    if collections.serve(company):
        try:
            index = publication.built_index(company)
            if isinstance(index, CollectionIndex):
                index.collection.require_all_pictures()
        except EngineError as error:
            return [str(error)]
    return []


def _summary(checkup: Checkup) -> str:
    parts = [
        f"{checkup.images} pictures",
        "files as published" if checkup.checksums else "no checksums recorded",
    ]
    if checkup.recall is not None:
        parts.append(f"{checkup.recall:.4f} of the true neighbours found")
    if checkup.pictures_missing:
        parts.append(f"{checkup.pictures_missing} of {checkup.sampled} pictures sampled are not in the folder")
    return ", ".join(parts)
