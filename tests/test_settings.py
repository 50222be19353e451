"""Settings come from the environment alone, so each test starts a process of its own in a copy of the code."""

import itertools
import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import start
from tests.support.processes import ROOT
from tests.support.waiting import eventually

SETTING = re.compile(r'(?:\bread\(\s*|os\.environ\.get\(|os\.environ\[)"([A-Z][A-Z_]+)"')

SHOW_KEY = "from imagesearch import settings; print(settings.SECRET_KEY)"

WRONG_VALUES = {
    "DEBUG": ["maybe", "2"],
    "ALLOWED_HOSTS": ["https://search.example.com", "search.example.com:5000", ","],
    "CSRF_TRUSTED_ORIGINS": ["search.example.com", "https://search.example.com/admin"],
    "CORS_ALLOWED_ORIGINS": ["*", "https://shop.example.com/cart"],
    "HTTPS": ["https"],
    "HSTS_SECONDS": ["-1", "1y"],
    "NUM_PROXIES": ["-1", "nginx"],
    "CACHE_URL": ["filecache:///tmp/cache", "redis://me:hunter2@cache:port/0", "redis://"],
    "IMAGESEARCH_RATE_PER_KEY": ["120", "0/min"],
    "IMAGESEARCH_RATE_PER_ADDRESS": ["120/week", "many/s"],
    "IMAGESEARCH_RATE_PICTURES": ["50"],
    "IMAGESEARCH_RATE_WRONG_LOGINS": ["-1/min"],
    "HOST": ["example.com", "10.0.0"],
    "PORT": ["http", "0", "65536"],
    "WEB_PROCESSES": ["0", "two"],
    "WEB_THREADS": ["-1"],
    "LOG_LEVEL": ["loud"],
    "IMAGESEARCH_API_KEYS": ["on", "Required"],
    "LOG_FORMAT": ["xml"],
    "METRICS_TOKEN": ["short", "a long one with spaces"],
    "IMAGESEARCH_NOTIFY": ["ops", "ops@example.com;ann@example.com"],
    "EMAIL_URL": ["mail.example.com", "smtps://me:hunter2@mail.example.com", "smtp://me:hunter2@mail:port", "smtp://"],
    "DEFAULT_FROM_EMAIL": ["imagesearch"],
    "DATABASE_URL": ["mysql://h/n", "postgres://me:hunter2@h:port/n", "sqlite:////nowhere/db"],
    "IMAGESEARCH_EMBEDDINGS_DIR": ["/nowhere/embeddings"],
    "IMAGESEARCH_MEDIA_DIR": ["/nowhere/media", "~nobody-at-all/media"],
    "IMAGESEARCH_IMAGE_ROOTS": ["media,/nowhere/pictures", "S3://bucket", "s3://bucket/../other"],
    "IMAGESEARCH_MAX_PIXELS": ["0", "many"],
    "IMAGESEARCH_KEEP_GENERATIONS": ["-1"],
    "IMAGESEARCH_MODEL_SWITCH": ["sometimes"],
    "IMAGESEARCH_WRITE_EMBEDDINGS_NPY": ["maybe"],
    "IMAGESEARCH_BUILD_LEASE_SECONDS": ["0"],
    "IMAGESEARCH_UNIT_PICTURES": ["0", "many"],
    "IMAGESEARCH_FOLD_SECONDS": ["0"],
    "IMAGESEARCH_CACHE_BYTES": ["-1", "2GB"],
    "IMAGESEARCH_STORE": ["bucket", "https://bucket", "s3://", "s3://bucket//indexes", "s3://bucket/../other"],
    "IMAGESEARCH_STORE_ENDPOINT": ["s3.example.com", "https://user@s3.example.com", "https://s3.example.com/bucket"],
    "IMAGESEARCH_MILVUS_URL": ["milvus.example.com:19530", "http://root:Milvus@milvus.example.com"],
    "IMAGESEARCH_MILVUS_TOKEN": ["root: Milvus"],
    "IMAGESEARCH_REPLICA_DIR": ["~nobody-at-all/replica"],
    "IMAGESEARCH_REPLICA_BYTES": ["-1", "2GB"],
    "IMAGESEARCH_READ_ONLY": ["never"],
    "IMAGESEARCH_WRITE_URL": ["admin.example.com", "https://admin.example.com/admin"],
    "IMAGESEARCH_WEIGHTS": ["IMAGENET1K_V3", "/nowhere/weights.pth"],
    "IMAGESEARCH_DEVICE": ["gpu"],
    "IMAGESEARCH_CACHE_DIR": ["~nobody-at-all/cache"],
    "IMAGESEARCH_THUMBNAIL_BYTES": ["-1", "1GB"],
    "TORCH_HOME": ["~nobody-at-all/torch"],
}


@pytest.fixture
def checkout(code: Path, tmp_path: Path) -> Path:
    """Return a copy of the code that the test may change."""
    return Path(shutil.copytree(code, tmp_path / "checkout"))


def read_settings(checkout: Path, **environment: str) -> dict[str, Any]:
    """Return the settings as a process sees them, paths as text; SECRET_KEY's default is made there."""
    show = "import json; from imagesearch import settings as s; print(json.dumps(vars(s), default=str, skipkeys=True))"
    result = start(checkout, "-c", show, **environment)
    assert result.returncode == 0, result.stderr
    return {name: value for name, value in json.loads(result.stdout).items() if name.isupper()}


def settings_read() -> set[str]:
    """Return the names that the code reads from the environment."""
    files = [ROOT / "imagesearch" / name for name in ("environment.py", "settings.py")]
    return {name for file in files for name in SETTING.findall(file.read_text())}


def test_env_example_lists_every_setting_and_no_other() -> None:
    read = settings_read()
    listed = re.findall(r"^#([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(read)
    assert len(read) > 10


def test_env_example_explains_every_setting_in_the_line_above() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        if line.startswith("#") and not line.startswith("# "):
            assert re.match(r"# \S.{10,}", above), line


def test_the_table_lists_every_setting() -> None:
    read = settings_read()
    table = (ROOT / "docs/settings.md").read_text()
    assert sorted(re.findall(r"^\| `([A-Z][A-Z_0-9]+)` \|", table, re.MULTILINE)) == sorted(read)


def test_env_example_shows_the_defaults(checkout: Path) -> None:
    defaults = read_settings(checkout)
    example = re.sub(r"^#([A-Z])", r"\1", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    (checkout / ".env").write_text(example)
    assert read_settings(checkout) == defaults


def test_one_module_reads_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for package in ("imagesearch", "search", "tenants")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\bos\.(environ\b(?!\.setdefault|\.update)|getenv)", path.read_text())
    }
    assert readers == {"imagesearch/environment.py"}


def test_every_setting_with_a_wrong_value_has_one_here() -> None:
    read = settings_read()
    assert set(WRONG_VALUES) == read - {"SECRET_KEY", "SECRET_KEY_FALLBACKS"}  # any text will do for them


CHECK = """
from django.core.checks.registry import registry
from search import checks
for check in registry.registered_checks:
    for problem in check(None) if check.__module__ == checks.__name__ else []:
        print(problem)
"""


@pytest.fixture(scope="module")
def complaints(code: Path) -> dict[str, str]:
    """Return what our checks say of each wrong value, as "NAME=value": the complaint and its hint.

    One process gets the first wrong value of every setting, the next the second.
    """
    said = {}
    for values in itertools.zip_longest(*WRONG_VALUES.values()):
        wrong = {name: value for name, value in zip(WRONG_VALUES, values, strict=True) if value is not None}
        result = start(code, "-c", CHECK, SECRET_KEY="x", DJANGO_SETTINGS_MODULE="imagesearch.settings", **wrong)
        assert result.returncode == 0, result.stderr
        found = re.findall(r"^\?: \(search\.E\d+\) (.*\n\tHINT: .*)$", result.stdout, re.MULTILINE)
        assert len(found) == len(wrong), result.stdout
        for name, value in wrong.items():
            said[f"{name}={value}"] = next((complaint for complaint in found if complaint.startswith(name)), "")
    return said


@pytest.mark.parametrize("wrong", [f"{name}={value}" for name in WRONG_VALUES for value in WRONG_VALUES[name]])
def test_a_wrong_value_stops_start_up_and_says_how_to_mend_it(complaints: dict[str, str], wrong: str) -> None:
    problem, hint = complaints[wrong].split("\n\tHINT: ")
    assert re.search(r"is not|is neither", problem)
    assert re.match(r"Correct|Run `mkdir|Give", hint)


def test_the_complaint_tells_which_values_are_right(complaints: dict[str, str]) -> None:
    assert complaints["PORT=http"].startswith("PORT='http' is not a port number from 1 to 65535")
    assert complaints["DEBUG=maybe"].startswith("DEBUG='maybe' is not true or false")
    assert "one of IMAGENET1K_V1, IMAGENET1K_V2" in complaints["IMAGESEARCH_WEIGHTS=IMAGENET1K_V3"]


def test_a_database_password_is_not_repeated(complaints: dict[str, str]) -> None:
    assert "postgres://...@h:port/n" in complaints["DATABASE_URL=postgres://me:hunter2@h:port/n"]
    assert "hunter2" not in "".join(complaints.values())


def test_a_token_is_not_repeated(complaints: dict[str, str]) -> None:
    assert complaints["METRICS_TOKEN=short"].startswith("METRICS_TOKEN is not at least 16 letters")
    assert "a long one" not in "".join(complaints.values())


@pytest.mark.parametrize("url", ["postgres://h", "sqlite://", "sqlite:///", "sqlite://:memory:", "/db.sqlite3"])
def test_a_database_that_two_processes_cannot_share_is_refused(code: Path, url: str) -> None:
    (error,) = read_settings(code, SECRET_KEY="x", DATABASE_URL=url)["ENVIRONMENT_ERRORS"]
    assert error.startswith(f"DATABASE_URL={url!r} is not a database URL such as sqlite:////")


@pytest.mark.slow
def test_gunicorn_ends_when_a_value_is_wrong(code: Path) -> None:
    command = ["-m", "gunicorn", "--config", "imagesearch/gunicorn_conf.py", "--bind", "127.0.0.1:0"]
    result = start(code, *command, "imagesearch.asgi", SECRET_KEY="x", WEB_PROCESSES="1", WEB_THREADS="many")
    assert result.returncode != 0
    assert "WEB_THREADS='many' is not a whole number of at least 1" in result.stderr


@pytest.mark.slow
def test_the_wsgi_module_refuses_a_wrong_value(code: Path) -> None:
    result = start(code, "-c", "import imagesearch.wsgi", SECRET_KEY="x", IMAGESEARCH_WEIGHTS="/nowhere/weights.pth")
    assert result.returncode != 0
    assert "IMAGESEARCH_WEIGHTS='/nowhere/weights.pth' is neither a file" in result.stderr


def test_a_variable_that_is_empty_means_its_default(code: Path) -> None:
    names = dict.fromkeys(WRONG_VALUES, "")
    assert read_settings(code, SECRET_KEY="x", **names) == read_settings(code, SECRET_KEY="x")


def test_debug_is_off_by_default(code: Path) -> None:
    assert read_settings(code, SECRET_KEY="x")["DEBUG"] is False
    assert read_settings(code, SECRET_KEY="x", DEBUG="True")["DEBUG"] is True


def test_a_secret_key_is_made_once_and_kept_for_its_owner_alone(checkout: Path) -> None:
    first, second = read_settings(checkout), read_settings(checkout)
    kept = checkout / ".secret_key"
    assert first["SECRET_KEY"] == second["SECRET_KEY"] == kept.read_text()
    assert len(first["SECRET_KEY"]) >= 50
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [path.name for path in checkout.glob(".secret_key*")] == [".secret_key"]


def test_a_secret_key_that_is_given_is_not_kept(checkout: Path) -> None:
    assert read_settings(checkout, SECRET_KEY="mine")["SECRET_KEY"] == "mine"
    assert not (checkout / ".secret_key").exists()


HOLD_BEFORE_THE_KEY_IS_KEPT = """
import sys, time
from pathlib import Path
def hold(event, arguments):
    if event == "os.link":
        Path("holds").touch()
        while not Path("go on").exists():
            time.sleep(0.005)
sys.addaudithook(hold)
"""


def test_processes_that_start_together_agree_on_the_secret_key(checkout: Path) -> None:
    command = [sys.executable, "-c", f"{HOLD_BEFORE_THE_KEY_IS_KEPT}\n{SHOW_KEY}"]
    with subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True) as late:
        eventually((checkout / "holds").exists, "the first process has made a key")
        second = start(checkout, "-c", SHOW_KEY).stdout
        (checkout / "go on").touch()
        assert late.communicate(timeout=60)[0] == second
    assert len(second) >= 50


@pytest.mark.slow
def test_a_secret_key_that_cannot_be_kept_stops_start_up(checkout: Path) -> None:
    (checkout / ".secret_key").mkdir()  # not writable, not readable: also for root
    result = start(checkout, "manage.py", "check")
    assert result.returncode != 0
    assert "SECRET_KEY is not set, and none can be stored in" in result.stderr


def test_git_ignores_what_is_secret_or_made() -> None:
    for path in (".secret_key", ".env", "db.sqlite3", "db.sqlite3-wal", "media/acme", "embeddings/acme"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0, path


def test_sqlite_runs_in_wal_mode(checkout: Path) -> None:
    show = (
        "from django.db import connection as c; "
        "print(c.cursor().execute('PRAGMA journal_mode').fetchone()[0], c.settings_dict['NAME'])"
    )
    result = start(checkout, "-c", show, DJANGO_SETTINGS_MODULE="imagesearch.settings")
    assert result.stdout.split() == ["wal", str(checkout / "db.sqlite3")], result.stderr


SHOW_RIGHTS = """
import os
from django.db import connection
from django.conf import settings
with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE t (x)")
for ending in ("", "-wal", "-shm"):
    print(oct(os.stat(settings.DATABASES["default"]["NAME"] + ending).st_mode & 0o777))
"""


def test_the_files_of_a_database_are_its_owners_alone(checkout: Path) -> None:
    result = start(checkout, "-c", SHOW_RIGHTS, DJANGO_SETTINGS_MODULE="imagesearch.settings")
    assert result.stdout.split() == ["0o600"] * 3, result.stderr


@pytest.mark.slow
def test_a_check_warns_of_secrets_that_others_can_read(checkout: Path) -> None:
    for name in ("db.sqlite3", "db.sqlite3-wal", ".secret_key", ".env"):
        (checkout / name).write_text("")
        (checkout / name).chmod(0o640)
    (checkout / ".secret_key").write_text("x" * 64)
    said = start(checkout, "manage.py", "check").stderr
    assert said.count("search.W002") == 4
    for name in ("db.sqlite3", "db.sqlite3-wal", ".secret_key", ".env"):
        assert f"chmod 600 {checkout / name}`" in said
        (checkout / name).chmod(0o600)
    assert "search.W002" not in start(checkout, "manage.py", "check").stderr


def test_a_relative_path_lies_below_the_project_wherever_a_process_starts(checkout: Path, tmp_path: Path) -> None:
    (checkout / "media/weights.pth").touch()
    settings = read_settings(
        tmp_path,
        PYTHONPATH=str(checkout),
        SECRET_KEY="x",
        DATABASE_URL="sqlite:///data/db.sqlite3",
        IMAGESEARCH_MEDIA_DIR="pictures",
        IMAGESEARCH_WEIGHTS="media/weights.pth",
    )
    assert settings["DATABASES"]["default"]["NAME"] == str(checkout / "data/db.sqlite3")
    assert settings["MEDIA_ROOT"] == str(checkout / "pictures")
    assert settings["WEIGHTS"] == str(checkout / "media/weights.pth")


def test_options_of_a_sqlite_url_are_added_to_ours(code: Path) -> None:
    url = "sqlite:////var/lib/imagesearch/db.sqlite3?timeout=5"
    options = read_settings(code, SECRET_KEY="x", DATABASE_URL=url)["DATABASES"]["default"]["OPTIONS"]
    assert options["timeout"] == 5
    assert "journal_mode=WAL" in options["init_command"]


def test_postgresql_by_url(code: Path) -> None:
    url = "postgres://me:p%40ss@db.example.com:5433/images?sslmode=require"
    database = read_settings(code, SECRET_KEY="x", DATABASE_URL=url)["DATABASES"]["default"]
    expected = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "images",
        "USER": "me",
        "PASSWORD": "p@ss",
        "HOST": "db.example.com",
        "PORT": 5433,
        "OPTIONS": {"sslmode": "require"},
    }
    assert {name: database[name] for name in expected} == expected
    assert database["CONN_HEALTH_CHECKS"] is True


@pytest.mark.parametrize(
    ("given", "listened_on"),
    [("", "0.0.0.0"), ("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::", "[::]"), ("[::1]", "[::1]")],
)
def test_the_server_listens_on_the_host_and_port_given(code: Path, given: str, listened_on: str) -> None:
    show = "from imagesearch.gunicorn_conf import bind; print(bind)"
    result = start(code, "-c", show, SECRET_KEY="x", PORT="7000", HOST=given)
    assert result.stdout == f"{listened_on}:7000\n", result.stderr


def test_dot_env_is_read_and_the_environment_wins(checkout: Path) -> None:
    (checkout / ".env").write_text("PORT=6000\nWEB_THREADS=7\n")
    settings = read_settings(checkout, PORT="7000")
    assert (settings["PORT"], settings["WEB_THREADS"]) == (7000, 7)


THREADS = "import faiss, os; print(faiss.omp_get_max_threads(), len(os.listdir('/proc/self/task')))"


SHELL = ("manage.py", "shell", "--no-imports", "-c", THREADS)


@pytest.mark.parametrize(
    "started",
    [SHELL, ("-c", f"import imagesearch.gunicorn_conf; {THREADS}")],
    ids=["command", "server"],
)
def test_numpy_and_faiss_compute_on_the_thread_that_asks(code: Path, started: tuple[str, ...]) -> None:
    result = start(code, *started, SECRET_KEY="x")
    assert result.stdout == "1 1\n", result.stderr


def test_an_operator_can_give_faiss_threads(checkout: Path) -> None:
    (checkout / ".env").write_text("OMP_NUM_THREADS=3\n")
    assert start(checkout, *SHELL, SECRET_KEY="x").stdout.startswith("3 ")
    assert start(checkout, *SHELL, SECRET_KEY="x", OMP_NUM_THREADS="5").stdout.startswith("5 ")
