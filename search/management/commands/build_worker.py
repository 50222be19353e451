from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import InterfaceError, OperationalError
from django_tasks_db.management.commands import db_worker

from search import notices, runtime
from search.checks import SETTINGS, STORES
from search.heartbeat import beating
from search.outages import outage, outlast
from search.tasks import look_after_companies
from tenants.read_only import ReadOnly


class Worker(db_worker.Worker):
    """The worker of django-tasks-db, which first recovers what a crash left unfinished.

    The library's ends where the database is locked or away; this one waits, and begins again with the recovery.
    """

    def run(self) -> None:
        runtime.believe_others()
        notices.look_in_background()
        with beating():
            self._run_patiently()

    def _run_patiently(self) -> None:
        while self.running:
            outlast(_recover)
            try:
                super().run()
                break
            except (OperationalError, InterfaceError) as error:
                outage.met(error)


def _recover() -> None:
    look_after_companies()
    call_command("prune_db_task_results", verbosity=0)


db_worker.Worker = Worker  # type: ignore[misc]  # the library's command asks nobody which one to run


class Command(db_worker.Command):
    help = "Run queued builds: the worker of django-tasks-db, which first recovers what a crash left unfinished."
    requires_system_checks = [SETTINGS, STORES]

    def handle(self, **options: Any) -> None:
        if settings.READ_ONLY:
            raise CommandError(str(ReadOnly()))
        super().handle(**options)
