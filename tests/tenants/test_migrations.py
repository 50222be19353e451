"""What a migration keeps of the rows that are there, on each database, and what it leaves to the release before."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, models
from django.db.migrations import AddField, AddIndex, AlterField, AlterModelOptions, CreateModel, Migration
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation

from tenants.models import AuditEvent, Company
from tests.support.processes import Site


def migrate(name: str) -> Any:
    """Migrate the tables to the migration of this name and return the models as they are then."""
    executor = MigrationExecutor(connection)
    return executor.migrate([("tenants", name)]).apps


@pytest.mark.slow
def test_what_was_to_follow_a_build_is_kept(site: Site) -> None:
    models = migrate("0004_generation")
    user = models.get_model("auth", "User").objects.create(username="ann")
    asked = {"acme": "", "globex": "changed", "initech": "full"}
    for name, repeat in asked.items():
        company = models.get_model("tenants", "Company").objects.create(name=name)
        models.get_model("tenants", "IndexBuild").objects.create(company=company, repeat=repeat, requested_by=user)

    builds = migrate("0005_follow_ups").get_model("tenants", "IndexBuild").objects
    kept = builds.values_list("company__name", "follow_up", "follow_up_full", "follow_up_requested_by")
    assert set(kept) == {
        ("acme", False, False, None),
        ("globex", True, False, user.pk),
        ("initech", True, True, user.pk),
    }

    builds = migrate("0004_generation").get_model("tenants", "IndexBuild").objects
    assert dict(builds.values_list("company__name", "repeat")) == asked


@pytest.mark.slow
def test_events_are_those_of_the_company_that_had_the_name_then(site: Site) -> None:
    models = migrate("0005_follow_ups")
    events = models.get_model("tenants", "AuditEvent").objects
    events.create(company="acme", detail="before")
    acme = models.get_model("tenants", "Company").objects.create(name="acme")
    events.create(company="globex", detail="another's")
    events.create(company="acme", detail="since")

    migrate("0006_companies_of_audit_events")
    keys = dict(AuditEvent.objects.values_list("detail", "company_key"))
    assert keys == {"before": None, "another's": None, "since": acme.pk}


# Rolling updates: the release before goes on beside the new tables ----------------------------------------------------

RELEASED = "0017_model_change"  # the last migration of the release before; whoever releases moves it on


def test_no_migration_takes_anything_from_the_release_before_or_asks_it_for_more() -> None:
    """A column goes in two releases: one that no longer uses it, one that removes it. A new name is a new column."""
    refused = [f"{migration}: {operation.describe()}" for migration, operation in _not_additive()]
    assert refused == []


def _not_additive() -> Iterator[tuple[Migration, Operation]]:
    """Yield what code from before the migration could stumble over."""
    loader = MigrationLoader(None)
    state = loader.project_state(("tenants", RELEASED))
    old = set(state.models)
    for app, name in loader.graph.forwards_plan(loader.graph.leaf_nodes("tenants")[0]):
        if app != "tenants" or name <= RELEASED:
            continue
        migration = loader.get_migration(app, name)
        for operation in migration.operations:
            before = state.clone()
            operation.state_forwards(app, state)
            if not _is_additive(operation, old, before, state):
                yield migration, operation


def _is_additive(operation: Operation, old: set[tuple[str, str]], before: Any, after: Any) -> bool:
    match operation:
        case CreateModel():  # a row that refers to one of an old table may not keep that from being deleted
            references = [field for _, field in operation.fields if isinstance(field, models.ForeignKey)]
            return not any(each.db_constraint and _table(each.remote_field.model) in old for each in references)
        case AddField(model_name=model, field=field):
            return ("tenants", model.lower()) not in old or field.null or field.has_db_default()
        case AlterField(model_name=model, name=name):
            fields = [state.apps.get_model("tenants", model)._meta.get_field(name) for state in (before, after)]
            return not connection.schema_editor()._field_should_be_altered(*fields)
    return isinstance(operation, AddIndex | AlterModelOptions)


def _table(model: Any) -> tuple[str, str]:
    app, _, name = str(model).lower().partition(".")
    return app, name


def test_the_release_before_adds_and_deletes_rows_in_the_new_tables(db: None) -> None:
    tables = MigrationLoader(None).project_state(("tenants", RELEASED)).apps

    def of(name: str) -> Any:
        return tables.get_model("tenants", name).objects

    acme = of("Company").create(name="acme")
    build = of("IndexBuild").create(company=acme, status="running")
    of("SkippedImage").create(build=build, path="a.png", reason="broken")
    of("LiveChange").create(company=acme, sequence=1, path="a.png", image_id="x")
    of("ApiKey").create(company=acme, name="shop", prefix="0a1b", digest="x")
    of("AuditEvent").create(company="acme", company_key=acme.pk, actor="ann", channel="admin", action="key made")
    of("DuplicateSearch").create(company=acme)
    of("DailySearches").create(company=acme, day="2026-11-26", channel="api", key_prefix="")
    assert Company.objects.get().builds.get().status == "running"
    of("Company").filter(pk=acme.pk).delete()
    assert not Company.objects.exists()
