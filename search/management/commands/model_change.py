from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from search import runtime
from search.companies.model_actions import ACTIONS, Action, Standing, comparison, for_all, standing
from search.companies.model_change import NoOtherModel
from search.engine.errors import EngineError
from search.management.companies import find_company
from search.management.operator_command import OperatorCommand
from tenants import audit
from tenants.models import Company


class Command(OperatorCommand):
    help = "List which model each company is searched with; have it rebuilt with the new one, use that, or go back."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("companies", nargs="*", metavar="company")
        parser.add_argument("--all", action="store_true", help="all companies that it applies to")
        actions = parser.add_mutually_exclusive_group(required=True)
        actions.add_argument("--list", action="store_true", help="list where companies stand (default: all)")
        for action in ACTIONS:
            actions.add_argument(
                f"--{action.name}", dest="action", action="store_const", const=action, help=f"{action.label.lower()}"
            )

    def changes_nothing(self, options: dict[str, Any]) -> bool:
        return options["action"] is None

    def handle(self, *, companies: list[str], action: Action | None, **options: Any) -> None:
        if action and bool(companies) == options["all"]:
            raise CommandError(f"Which companies? Name them, or say --all: model_change --{action.name} --all")
        named = [standing(find_company(name)) for name in companies]
        found = named or [standing(company) for company in Company.objects.all()]
        if action is None:
            self._list(found)
        else:
            self._carry_out(action, named or for_all(action, found))

    def _list(self, found: list[Standing]) -> None:
        self.stdout.write(f"Configured: {runtime.configured_model() or 'weights that are not on this machine'}")
        self.stdout.write("\n".join([_line(each) for each in found] or ["There is no company"]))

    def _carry_out(self, action: Action, chosen: list[Standing]) -> None:
        refused = 0
        for each in chosen:
            try:
                if not action.applies(each):
                    raise NoOtherModel(f"there is nothing to do, it is {each.state}")
                self.stdout.write(action.carry_out(each.company, by=audit.on_command_line()))
            except (NoOtherModel, EngineError, OSError) as error:
                refused += 1
                self.stderr.write(f"{each.company}: {error}")
        if refused:
            raise CommandError(f"{action.label}: not done for {refused} of {len(chosen)} companies")
        if not chosen:
            self.stdout.write(f"{action.label}: there is no company to do it for")


def _line(found: Standing) -> str:
    used = str(found.stand.used or "-") if found.stand else "-"
    told = [found.problem] if found.problem else comparison(found.stand.comparison if found.stand else None)
    return f"{found.company.name:<20}  {found.state:<20}  {used:<36}  {' '.join(told)}".rstrip()
