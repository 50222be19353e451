from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from search.checks import SETTINGS, STORES
from search.companies.upload import NoStore, Uploaded, upload_indexes
from search.engine.errors import EngineError
from search.management.companies import find_company
from search.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Take the indexes in IMAGESEARCH_EMBEDDINGS_DIR into the store that IMAGESEARCH_STORE names."
    requires_system_checks = [SETTINGS, STORES]

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("names", nargs="*", metavar="company", help="only these")

    def handle(self, *, names: list[str], **options: Any) -> None:
        problems = 0

        def tell(uploaded: Uploaded) -> None:
            nonlocal problems
            self.stdout.write(f"{uploaded.company}: generations uploaded: {uploaded.generations}")
            for problem in uploaded.problems:
                problems += 1
                self.stderr.write(self.style.ERROR(f"{uploaded.company}: {problem}"))

        try:
            upload_indexes([find_company(name).name for name in names], tell=tell)
        except (NoStore, EngineError) as error:
            raise CommandError(str(error)) from error
        if problems:
            raise CommandError(
                f"Generations that could not be uploaded: {problems}. Repair them, and run the command again"
            )
