from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from search.engine.errors import IndexNotBuilt
from search.engine.storage.checkup import Checkup, examine
from search.management.companies import find_company
from tenants.models import Company


class Command(BaseCommand):
    help = "Look indexes over, every file and every vector; the exit status is 1 where one is damaged."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("companies", nargs="*", metavar="company", help="whose index to check")
        parser.add_argument("--all", action="store_true", help="those of all companies")

    def handle(self, *, companies: list[str], **options: Any) -> None:
        if bool(companies) == options["all"]:
            raise CommandError("Name the companies, or give --all")
        chosen = list(Company.objects.all()) if options["all"] else [find_company(name) for name in companies]
        damaged = [company.name for company in chosen if not self._check(company)]
        if damaged:
            raise CommandError(f"{len(damaged)} of {len(chosen)} companies have a damaged index: {', '.join(damaged)}")

    def _check(self, company: Company) -> bool:
        """Print a line about the company's index and return whether it is sound, or none."""
        try:
            checkup = examine(company.embeddings_directory, pictures=company.image_directory)
        except IndexNotBuilt:
            self.stdout.write(f"{company}: no index yet")
            return True
        if not checkup.problems:
            self.stdout.write(f"{company}: ok, {_summary(checkup)}")
            return True
        ways_out = f"rollback_index {company}, or build_embeddings --company {company} --full"
        self.stdout.write(self.style.ERROR(f"{company}: DAMAGED. {'; '.join(checkup.problems)}. Way out: {ways_out}"))
        return False


def _summary(checkup: Checkup) -> str:
    parts = [
        f"{checkup.images} pictures",
        "files as published" if checkup.checksums else "no checksums recorded",
    ]
    if checkup.recall is not None:
        parts.append(f"{checkup.recall:.4f} of the true neighbours found")
    if checkup.pictures_missing:
        parts.append(f"{checkup.pictures_missing} of {checkup.sampled} pictures looked for are not in the folder")
    return ", ".join(parts)
