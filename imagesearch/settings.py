"""Every setting of the project: each is read once, here, from the environment or from .env.

A value that cannot be read is kept in ENVIRONMENT_ERRORS and its default used instead, so that the
system check `search.E001` can name it and say how to mend it before anything is served.
"""

import os
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import environ

BASE_DIR = Path(__file__).resolve().parent.parent
environ.Env.read_env(BASE_DIR / ".env")

ENVIRONMENT_ERRORS: list[str] = []

T = TypeVar("T")


def _read(name: str, default: str, parse: Callable[[str], T], wanted: str, *, secret: bool = False) -> T:
    """Return the environment's value of name; one that parse refuses is recorded and replaced by the default.

    secret: the value is not shown in what is recorded.
    """
    try:
        return parse(os.environ.get(name) or default)
    except (ValueError, RuntimeError, environ.ImproperlyConfigured):  # RuntimeError: a ~user nobody is
        shown = re.sub(r"//.*@", "//...@", os.environ[name])  # a database's password does not belong in a log
        ENVIRONMENT_ERRORS.append(f"{name} is not {wanted}" if secret else f"{name}={shown!r} is not {wanted}")
        return parse(default)


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        raise ValueError(text)
    return text.lower() in {"true", "1", "yes", "on"}


def _whole_number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if number < lowest or (highest is not None and number > highest):
            raise ValueError(text)
        return number

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return parse


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _hosts(text: str) -> list[str]:
    hosts = _list(text)
    if not hosts or not all(re.fullmatch(r"\*|\.?[\w.-]+|\[[\da-fA-F:.]+\]", host) for host in hosts):
        raise ValueError(text)
    return hosts


def _origins(text: str) -> list[str]:
    origins = _list(text)
    if not all(re.fullmatch(r"https?://[^/?#@*\s]+", origin) for origin in origins):
        raise ValueError(text)
    return origins


def _path(text: str) -> Path:
    # Under the project, not under whatever directory the process was started in.
    return BASE_DIR / Path(text).expanduser()


def _paths(text: str) -> list[Path]:
    return [_path(item) for item in _list(text)]


def _database(text: str) -> dict[str, Any]:
    if urlsplit(text).scheme not in {"sqlite", "postgres", "postgresql"}:
        raise ValueError(text)
    database: dict[str, Any] = dict(environ.Env.db_url_config(text))
    if database["NAME"] in {"", ":memory:"}:  # the server and the worker are processes of their own
        raise ValueError(text)
    if database["ENGINE"] == "django.db.backends.sqlite3":
        database["NAME"] = str(_path(database["NAME"]))
    return database


def _token(text: str) -> str:
    if not re.fullmatch(r"|[!-~]{16,}", text):
        raise ValueError
    return text


def _cache(text: str) -> dict[str, Any]:
    parts = urlsplit(text)
    # Those whose counting is atomic; files and the database read a counter and write it back.
    if parts.scheme not in {"locmemcache", "redis", "rediss"}:
        raise ValueError(text)
    if parts.scheme == "locmemcache":
        # Counters are small, and throwing them away would let their owners begin anew.
        return {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 100_000}}
    if not parts.hostname or parts.port == 0:  # port raises ValueError itself when it is no number
        raise ValueError(text)
    configured: dict[str, Any] = dict(environ.Env.cache_url_config(text))
    timeouts = {"socket_connect_timeout": 1, "socket_timeout": 1}  # seconds that a request waits at most
    return {**configured, "OPTIONS": {**timeouts, **configured.get("OPTIONS", {})}}


_RATE_UNITS = {"s": 1, "min": 60, "hour": 3600, "day": 86400}  # seconds


def _rate(text: str) -> tuple[int, int] | None:
    """Return a number and its seconds: 120/min is (120, 60); None where there is no limit."""
    if text in {"", "off"}:
        return None
    number, _, unit = text.partition("/")
    if unit not in _RATE_UNITS:
        raise ValueError(text)
    return _whole_number(1)(number), _RATE_UNITS[unit]


def _weights(text: str) -> str:
    return str(_path(text)) if _path(text).is_file() else text


def _secret_key() -> str:
    """Return SECRET_KEY; one that is not given is made once and kept in .secret_key, readable by its owner alone."""
    if given := os.environ.get("SECRET_KEY"):
        return given
    kept = BASE_DIR / ".secret_key"
    try:
        return _kept_secret(kept)
    except OSError as error:
        ENVIRONMENT_ERRORS.append(f"SECRET_KEY is not given, and none can be kept in {kept} ({error.strerror})")
        return secrets.token_urlsafe(64)


def _kept_secret(kept: Path) -> str:
    fresh = kept.with_name(f".secret_key.{os.getpid()}")
    if not kept.exists():
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(64))
        try:
            kept.hardlink_to(fresh)  # refused where another process was first: its key is everybody's
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return kept.read_text()


# Web
SECRET_KEY = _secret_key()
SECRET_KEY_FALLBACKS = _read("SECRET_KEY_FALLBACKS", "", _list, "a comma-separated list of earlier secret keys")
DEBUG = _read("DEBUG", "false", _boolean, "true or false")
ALLOWED_HOSTS = _read(
    "ALLOWED_HOSTS",
    f"localhost,127.0.0.1,[::1],{socket.gethostname()}",
    _hosts,
    "a comma-separated list of host names such as search.example.com, without scheme and port",
)
CSRF_TRUSTED_ORIGINS = _read(
    "CSRF_TRUSTED_ORIGINS",
    "",
    _origins,
    "a comma-separated list of origins such as https://search.example.com",
)
CORS_ALLOWED_ORIGINS = _read(
    "CORS_ALLOWED_ORIGINS",
    "",
    _origins,
    "a comma-separated list of origins such as https://shop.example.com",
)
CORS_URLS_REGEX = r"^/api/"
CORS_ALLOW_CREDENTIALS = False  # nothing under /api/ is authorised by a cookie
CORS_ALLOW_HEADERS = ["authorization", "content-type", "x-api-key", "x-request-id"]
CORS_EXPOSE_HEADERS = ["Retry-After", "Server-Timing", "X-Request-ID"]

HTTPS = _read("HTTPS", "false", _boolean, "true or false")
HSTS_SECONDS = _read("HSTS_SECONDS", "31536000", _whole_number(0), "a whole number of seconds of at least 0")
NUM_PROXIES = _read("NUM_PROXIES", "0", _whole_number(0), "a whole number of proxies of at least 0")
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^api/health", r"^metrics$"]  # asked for by machines, from inside, over http
SECURE_HSTS_SECONDS = HSTS_SECONDS if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
if NUM_PROXIES:  # or any client could say so
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],  # the API page's icons
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}

CACHES = {
    "default": _read("CACHE_URL", "locmemcache://", _cache, "locmemcache:// or a Redis URL such as redis://host:6379/0")
}
_A_RATE = "off or a rate such as 10/s, 120/min, 5000/hour or 100000/day"
RATE_PER_KEY = _read("IMAGESEARCH_RATE_PER_KEY", "off", _rate, _A_RATE)
RATE_PER_ADDRESS = _read("IMAGESEARCH_RATE_PER_ADDRESS", "off", _rate, _A_RATE)
RATE_WRONG_LOGINS = _read("IMAGESEARCH_RATE_WRONG_LOGINS", "20/min", _rate, _A_RATE)

PORT = _read("PORT", "5000", _whole_number(1, 65535), "a port number from 1 to 65535")
WEB_PROCESSES = _read("WEB_PROCESSES", str(os.cpu_count() or 1), _whole_number(1), "a whole number of at least 1")
WEB_THREADS = _read("WEB_THREADS", "4", _whole_number(1), "a whole number of at least 1")
LOG_LEVEL = _read("LOG_LEVEL", "INFO", _one_of("DEBUG", "INFO", "WARNING", "ERROR"), "DEBUG, INFO, WARNING or ERROR")
API_KEYS = _read("IMAGESEARCH_API_KEYS", "off", _one_of("off", "required"), "off or required")
LOG_FORMAT = _read("LOG_FORMAT", "line", _one_of("line", "json"), "line or json")
METRICS_TOKEN = _read("METRICS_TOKEN", "", _token, "at least 16 letters, digits or signs without a space", secret=True)
MAX_UPLOAD_BYTES = 16 * 1024 * 1024  # part of the API's contract, so not a setting
MAX_BODY_BYTES = MAX_UPLOAD_BYTES + 64 * 1024  # with boundaries, headers and the other fields around the one file
# No file is written to the disk where strangers may post, such as the admin's login; uploads name their own handlers.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]

# Images and indexes
EMBEDDINGS_DIR = _read("IMAGESEARCH_EMBEDDINGS_DIR", "embeddings", _path, "a directory")
MEDIA_ROOT = _read("IMAGESEARCH_MEDIA_DIR", "media", _path, "a directory")
IMAGE_ROOTS = _read("IMAGESEARCH_IMAGE_ROOTS", "", _paths, "a comma-separated list of directories")
MAX_PIXELS = _read(
    "IMAGESEARCH_MAX_PIXELS",
    "100000000",
    _whole_number(1),
    "a number of pixels (width times height) of at least 1",
)
KEEP_GENERATIONS = _read("IMAGESEARCH_KEEP_GENERATIONS", "2", _whole_number(0), "a whole number of at least 0")
FOLD_SECONDS = _read("IMAGESEARCH_FOLD_SECONDS", "600", _whole_number(1), "a whole number of seconds of at least 1")
BUILD_LEASE_SECONDS = _read(
    "IMAGESEARCH_BUILD_LEASE_SECONDS", "60", _whole_number(1), "a whole number of seconds of at least 1"
)

CACHE_BYTES = _read(
    "IMAGESEARCH_CACHE_BYTES",
    str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2),  # half of the machine's memory
    _whole_number(0),
    "a whole number of bytes of at least 0",
)

# Model
WEIGHTS = _read("IMAGESEARCH_WEIGHTS", "IMAGENET1K_V1", _weights, "a torchvision weights entry or a path")
DEVICE = _read("IMAGESEARCH_DEVICE", "auto", _one_of("auto", "cpu", "cuda"), "auto, cpu or cuda")
MODEL_THREADS = os.cpu_count() or 1  # that one run of the model takes; in a server less, see gunicorn_conf.py
CACHE_DIR = _read("IMAGESEARCH_CACHE_DIR", ".cache", _path, "a directory")
TORCH_HOME = _read("TORCH_HOME", f"{environ.Env().str('XDG_CACHE_HOME', '') or '~/.cache'}/torch", _path, "a directory")

DATABASES = {
    "default": _read(
        "DATABASE_URL",
        f"sqlite:///{BASE_DIR / 'db.sqlite3'}",
        _database,
        "a database URL such as sqlite:////var/lib/imagesearch/db.sqlite3 or postgres://user:password@host:5432/name",
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        # Writers queue for the lock at BEGIN instead of failing half-way with "database is locked".
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        **DATABASES["default"].get("OPTIONS", {}),
    }
else:
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DATABASES["default"]["CONN_MAX_AGE"] = 60
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "corsheaders",
    "csp",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_tasks",
    "django_tasks_db",
    "tenants",
    "search",
]

MIDDLEWARE = [
    "search.monitoring.middleware.ObserveRequests",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "search.http.headers.permissions_policy",
    "search.http.headers.keep_credentials_apart",
    "corsheaders.middleware.CorsMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "search.http.logins.limit_wrong_logins",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "imagesearch.urls"
WSGI_APPLICATION = "imagesearch.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["search.http.access.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],  # search/permissions.py tells to what
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_THROTTLE_CLASSES": ["search.http.limits.CallerThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.MultiPartParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "search.http.errors.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Image similarity search",
    "DESCRIPTION": "Post a photograph, get a company's most similar pictures.",
    "VERSION": "1.0.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,  # or the image of a search is told to be the address of one
    "PREPROCESSING_HOOKS": ["search.api.views.search.drop_slashed_paths"],
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "search.api.openapi.add_limits"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True  # the admin's and the API page's files, from where they are installed: no collectstatic
SECURE_CONTENT_TYPE_NOSNIFF = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "search.monitoring.logs.LineFormatter",
            "fmt": "{asctime} {levelname} {name}: {message}",
            "style": "{",
        },
        "json": {"()": "search.monitoring.logs.JsonFormatter"},
    },
    "filters": {
        "marks": {"()": "search.monitoring.logs.AddMarks"},
        "faults": {"()": "search.monitoring.logs.OnlyFaults"},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["marks"]}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "django.request": {"filters": ["faults"]},
        "faiss.loader": {"level": "WARNING"},
        "PIL": {"level": "CRITICAL"},  # what it says of broken pictures is in the skipped file's reason
    },
}
