from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from search.management.companies import find_company
from search.management.operator_command import OperatorCommand
from tenants.models import ApiKey


class Command(OperatorCommand):
    help = "List API keys with their company, status and permissions."
    only_reads = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--company", help="only keys of this company")

    def handle(self, *, company: str | None, **options: Any) -> None:
        keys = ApiKey.objects.select_related("company")
        if company:
            keys = keys.filter(company=find_company(company))
        nothing = f"There are no API keys{f' of {company}' if company else ''}: see manage.py create_api_key"
        self.stdout.write("\n".join([_line(key) for key in keys] or [nothing]))


def _line(key: ApiKey) -> str:
    may = "write" if key.can_write else "read"
    return (
        f"{key.prefix}  {key.company.name:<20}  {key.state:<8} {may:<6} "
        f"expires {_moment(key.expires)}  used {_moment(key.last_used)}  {key.name}"
    )


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else f"{'never':<16}"
