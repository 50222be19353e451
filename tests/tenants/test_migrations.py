"""What a migration keeps of the rows that are there, on each database."""

from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from tenants.models import AuditEvent
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
