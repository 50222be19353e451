from typing import Any

from django.apps import AppConfig


class SearchConfig(AppConfig):
    name = "search"

    def ready(self) -> None:
        from search import checks  # noqa: F401
        from search.api import openapi  # noqa: F401
        from tenants.signals import build_queued, fold_wanted

        build_queued.connect(_enqueue, dispatch_uid="search.enqueue_build")
        fold_wanted.connect(_plan_fold, dispatch_uid="search.plan_fold")


def _enqueue(sender: object, *, build: Any, **_: object) -> None:
    from search.tasks import carry_out_build

    carry_out_build.enqueue(build.pk)


def _plan_fold(sender: object, *, company: Any, **_: object) -> None:
    from search.tasks import plan_fold

    plan_fold(company)
