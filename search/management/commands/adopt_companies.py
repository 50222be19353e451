from typing import Any

from django.core.management.base import BaseCommand

from search.companies.adoption import adopt_companies


class Command(BaseCommand):
    help = "Create the companies of index directories under embeddings/ that have none."

    def handle(self, **options: Any) -> None:
        adopted = adopt_companies()
        for company in adopted:
            self.stdout.write(f"Adopted {company}")
        self.stdout.write(f"{len(adopted)} companies adopted")
