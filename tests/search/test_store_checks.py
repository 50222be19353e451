"""What the stores are asked when a server, a worker or a preparation starts."""

import sys
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from search.checks import SETTINGS, STORES
from search.tasks import look_after_companies
from tenants.models import Company
from tests.support.object_store import StoreServer
from tests.support.poor_store import poor_store

NOBODY = "http://127.0.0.1:9"  # where no store listens


def complaints() -> dict[str, str]:
    return {str(problem.id): problem.msg for problem in run_checks(tags=[STORES])}


def test_a_good_store_is_used_and_nothing_is_left_in_it(store_server: StoreServer, settings: Any) -> None:
    settings.STORE, settings.STORE_ENDPOINT = store_server.make_bucket(), store_server.endpoint
    settings.IMAGE_STORES = [f"{settings.STORE}/pictures"]
    assert complaints() == {}


def test_nothing_starts_on_a_store_that_overwrites_pictures(store_server: StoreServer, settings: Any) -> None:
    settings.IMAGE_STORES = ["s3://bucket/pictures"]
    with poor_store() as settings.STORE_ENDPOINT:
        (said,) = complaints().items()
        assert said[0] == "search.E005"
        assert "s3://bucket/pictures ignores If-None-Match" in said[1]
        with pytest.raises(SystemCheckError, match="ignores If-None-Match"):
            call_command("check")
        settings.READ_ONLY = True
        assert complaints() == {}


@pytest.mark.parametrize(
    ("setting", "value", "package"),
    [
        ("STORE", "s3://bucket/indexes", "obstore"),
        ("IMAGE_STORES", ["s3://bucket/pictures"], "obstore"),
        ("MILVUS_URL", "http://milvus.example.com:19530", "pymilvus"),
    ],
)
def test_nothing_starts_without_the_package_that_a_setting_needs(
    setting: str, value: Any, package: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setattr(settings, setting, value)
    monkeypatch.setitem(sys.modules, package, None)
    said = {problem.id: problem for problem in run_checks(tags=[SETTINGS])}
    assert f"needs the package {package}" in said["search.E006"].msg
    assert "requirements-scale.txt" in str(said["search.E006"].hint)


@pytest.mark.slow
def test_a_store_that_is_away_is_no_reason_not_to_start(
    db: None, store_server: StoreServer, settings: Any, tmp_path: Any
) -> None:
    settings.STORE, settings.STORE_ENDPOINT = store_server.make_bucket(), NOBODY
    settings.IMAGE_STORES = [f"{settings.STORE}/pictures"]
    settings.INDEX_DIR = tmp_path / "replica"
    assert set(complaints()) == {"search.W003"}
    Company.objects.create(name="acme", generation="20250101T000000000000-aaaaaaaa")
    look_after_companies()
