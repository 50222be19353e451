from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from search.companies.adoption import adopt_companies
from tenants import audit


class Command(BaseCommand):
    help = "Create the companies of index directories under embeddings/ that have none."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "names",
            nargs="*",
            metavar="company",
            help="only these; of one that exists, a directory put in the place of its link becomes its index",
        )

    def handle(self, *, names: list[str], **options: Any) -> None:
        adopted = adopt_companies(names, by=audit.on_command_line())
        for company in adopted:
            self.stdout.write(f"Adopted {company}")
        self.stdout.write(f"{len(adopted)} companies adopted")
