from django.core.management.base import BaseCommand

from search.checks import SETTINGS


class OperatorCommand(BaseCommand):
    """A command that stops over a wrong setting.

    What only a change of code could break, such as URLs, is for `check`, `migrate` and the server to find: a second
    for importing every page.
    """

    requires_system_checks = [SETTINGS]
