import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Generator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.contrib.auth.models import Permission, User
from django.core.cache import cache as shared_cache
from django.core.management import call_command
from django.db import connection
from django.test import Client
from PIL import Image

from search import runtime
from tenants.models import Company, unwritten
from tests.support.checkout import copy_code
from tests.support.companies import BuiltCompanies
from tests.support.fakes import FakeEmbedder
from tests.support.milvus_server import MilvusServer, StandaloneServer
from tests.support.object_store import KEYS, StoreServer
from tests.support.postgres import Cluster, binaries
from tests.support.processes import Launcher, Site, copy_sqlite, database, make_template

hypothesis.settings.register_profile("quick", max_examples=8, derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("deep", hypothesis.settings.get_profile("quick"), max_examples=200)
hypothesis.settings.load_profile("quick")  # unless --hypothesis-profile names another

Colour = tuple[int, int, int]
Colleague = Callable[..., Client]

WEIGHTS = Path(os.environ.get("IMAGESEARCH_WEIGHTS", ""))
# Weights that tests run on: everywhere the built-in ones, and others where they are there.
TRAINED = ["builtin", *([pytest.param(str(WEIGHTS.resolve()), marks=pytest.mark.slow)] if WEIGHTS.is_file() else [])]
NO_NETWORK = "http://127.0.0.1:9"  # a proxy where nobody listens
CLOTHING = Path(__file__).resolve().parents[2] / "shared/images/clothing"


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[Any, Any, Any]:
    """Escape what no worker of pytest-xdist can send: in a log of file names, those that are no text."""
    return _escaped((yield))


def _escaped(report: Any) -> Any:
    match report:
        case str():
            return report.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {key: _escaped(value) for key, value in report.items()}
        case list() | tuple():
            return [_escaped(value) for value in report]
    return report


@pytest.fixture(autouse=True)
def _own_directories(settings: Any, tmp_path: Path) -> Iterator[None]:
    """Every test has its own embeddings/ and media/ and its own, empty, process state."""
    for name in ("EMBEDDINGS_DIR", "MEDIA_ROOT"):
        directory = tmp_path / name.split("_")[0].lower()
        directory.mkdir()
        setattr(settings, name, directory)
    settings.INDEX_DIR = settings.EMBEDDINGS_DIR
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the real one takes a second
    settings.USAGE_SECONDS = 0  # each request writes what it has counted
    settings.WHITENOISE_AUTOREFRESH = True  # looks for a file when it is asked for, not for all with each client
    shared_cache.clear()  # rates
    yield
    runtime.reset()
    unwritten.reset()


@pytest.fixture
def embedder() -> FakeEmbedder:
    """Return the process's own embedder until the end of the test."""
    fake = FakeEmbedder()
    runtime.use(fake)
    return fake


@pytest.fixture(scope="session")
def built_companies(tmp_path_factory: pytest.TempPathFactory) -> BuiltCompanies:
    return BuiltCompanies(tmp_path_factory.mktemp("companies"))


@pytest.fixture
def make_company(
    db: None, embedder: FakeEmbedder, built_companies: BuiltCompanies, settings: Any
) -> Callable[..., Company]:
    """Return a company with an index of one plain picture a name given: make_company("acme", {"a.png": RED})."""

    def build(company: Company, pictures: dict[str, Colour]) -> None:
        for path, colour in pictures.items():
            paint(company.image_directory / path, colour)
        call_command("build_embeddings", company=company.name)

    def make(name: str, pictures: dict[str, Colour]) -> Company:
        company = Company.objects.create(name=name)
        if runtime.embedder() is not embedder or os.path.lexists(company.embeddings_directory):
            build(company, pictures)
            return company
        key = (name, tuple(pictures.items()), embedder.passport, settings.WRITE_EMBEDDINGS_NPY)
        if built_companies.build(company, pictures, key, lambda: build(company, pictures)):
            embedder.embedded += len(pictures)
        return company

    return make


@pytest.fixture
def admin_client(db: None) -> Client:
    """Return the client of the superuser ann, who has no password."""
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    return client


@pytest.fixture
def colleague(db: None) -> Colleague:
    """Return the client of a staff user with some permissions: colleague("view_company")."""

    def make(*codenames: str, **options: Any) -> Client:
        user = User.objects.create_user(f"colleague-{User.objects.count()}", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        client = Client(**options)
        client.force_login(user)
        return client

    return make


def paint(path: Path, colour: Colour) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def picture(colour: Colour, name: str = "query.png") -> BytesIO:
    """Return an upload: an 8x8 picture of one colour."""
    file = BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, format="JPEG" if name.endswith("jpg") else "PNG")
    file.seek(0)
    file.name = name
    return file


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with empty data directories and no .env; tests leave it as it is."""
    return copy_code(tmp_path_factory.mktemp("code"))


# Real processes, see tests/support/processes.py


@pytest.fixture(scope="session")
def postgres(django_db_blocker: Any) -> Iterator[Cluster]:
    """The test run's own PostgreSQL server, with the tables laid out in the database `tables`."""
    directory = binaries()
    if directory is None:
        pytest.skip("PostgreSQL is not installed here: no /usr/lib/postgresql/*/bin/initdb")
    cluster = Cluster(directory)
    try:
        with django_db_blocker.unblock():
            make_template(cluster.create("tables"))
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def milvus_server() -> Iterator[MilvusServer]:
    """The test run's own Milvus, a real one with TEST_MILVUS; each test names its collections by itself."""
    python = os.environ.get("TEST_MILVUS")
    server = StandaloneServer(Path(python)) if python else MilvusServer()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def store_server() -> Iterator[StoreServer]:
    """The test run's own S3 server; each test makes a bucket in it. This process may use it as well."""
    server = StoreServer()
    try:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in KEYS.items():
                environment.setenv(name, value)
            yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def sqlite_tables(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any) -> Path:
    """A file with the tables laid out, a copy of the test run's own database where the run has one."""
    file = tmp_path_factory.mktemp("tables") / "tables.sqlite3"
    assert not connection.in_atomic_block, "a test has begun to write"
    with django_db_blocker.unblock():
        # A run of tests that all bring their own databases has none: then this is that of the checkout.
        if not connection.is_in_memory_db():
            make_template(f"sqlite:///{file}")
            return file
        with contextlib.closing(sqlite3.connect(file)) as copy:
            connection.ensure_connection()
            connection.connection.backup(copy)
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database on each engine, for processes that share it."""
    if request.param == "sqlite":
        return copy_sqlite(request.getfixturevalue("sqlite_tables"), tmp_path / "db.sqlite3")
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.create(f"test_{secrets.token_hex(8)}", template="tables")


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    launcher.stop()


@pytest.fixture
def site(database_url: str, tmp_path: Path, launcher: Launcher, django_db_blocker: Any) -> Iterator[Site]:
    """An installation for real processes; this process uses its database and directories too."""
    site = Site(database_url, tmp_path, launcher)
    with django_db_blocker.unblock(), database(database_url):
        yield site
        site.stop()
