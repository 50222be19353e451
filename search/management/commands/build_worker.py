from typing import Any

from django.core.management import call_command
from django_tasks_db.management.commands import db_worker

from search.tasks import look_after_companies


class Command(db_worker.Command):
    help = "Run queued builds: the worker of django-tasks-db, which first recovers what a crash left unfinished."

    def handle(self, **options: Any) -> None:
        look_after_companies()
        call_command("prune_db_task_results", verbosity=0)
        super().handle(**options)
