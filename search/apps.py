from typing import Any

from django.apps import AppConfig
from django.db import transaction


class SearchConfig(AppConfig):
    name = "search"

    def ready(self) -> None:
        from django.db.models.signals import post_save

        from search import checks  # noqa: F401
        from tenants.signals import build_queued, duplicate_search_queued, fold_wanted, help_wanted, index_published

        post_save.connect(_keep_protection, sender="tenants.Company", dispatch_uid="search.keep_protection")
        build_queued.connect(_enqueue, dispatch_uid="search.enqueue_build")
        fold_wanted.connect(_plan_fold, dispatch_uid="search.plan_fold")
        duplicate_search_queued.connect(_enqueue_duplicates, dispatch_uid="search.enqueue_duplicates")
        help_wanted.connect(_call_for_help, dispatch_uid="search.call_for_help")
        index_published.connect(_look_at_new, dispatch_uid="search.look_at_new")


def _enqueue(sender: object, *, build: Any, **_: object) -> None:
    from search.tasks import carry_out_build

    carry_out_build.enqueue(build.pk)


def _enqueue_duplicates(sender: object, *, search: Any, **_: object) -> None:
    from search.tasks import carry_out_duplicate_search

    carry_out_duplicate_search.enqueue(search.pk)


def _look_at_new(sender: object, *, company: Any, **_: object) -> None:
    from search.companies.duplicates import look_at_new

    look_at_new(company)


def _plan_fold(sender: object, *, company: Any, **_: object) -> None:
    from search.tasks import plan_fold

    plan_fold(company)


def _call_for_help(sender: object, **_: object) -> None:
    from search.tasks import call_for_help

    call_for_help()


def _keep_protection(sender: object, *, instance: Any, update_fields: frozenset[str] | None, **_: object) -> None:
    from search.publication import keep_protection

    if update_fields is None or not update_fields.isdisjoint(instance.PROTECTION):
        transaction.on_commit(lambda: keep_protection(instance))
