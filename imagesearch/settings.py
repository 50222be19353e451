"""Every setting of the project; imagesearch/environment.py tells how a value is read, and refused."""

import os
import socket
from math import ceil

from imagesearch.environment import (
    BASE_DIR,
    ERRORS,
    address,
    addresses,
    boolean,
    cache,
    comma_separated,
    database,
    disk_bytes,
    endpoint,
    hosts,
    image_roots,
    listen_address,
    mail,
    one_of,
    origins,
    password,
    path,
    rate,
    read,
    secret_key,
    store,
    token,
    user_cache,
    weights,
    whole_number,
)
from imagesearch.sqlite import PrivateConnection

ENVIRONMENT_ERRORS = ERRORS  # for the system check search.E001

# Web
SECRET_KEY = secret_key()
SECRET_KEY_FALLBACKS = read(
    "SECRET_KEY_FALLBACKS", "", comma_separated, "a comma-separated list of earlier secret keys"
)
DEBUG = read("DEBUG", "false", boolean, "true or false")
ALLOWED_HOSTS = read(
    "ALLOWED_HOSTS",
    f"localhost,127.0.0.1,[::1],{socket.gethostname()}",
    hosts,
    "a comma-separated list of host names such as search.example.com, without scheme and port",
)
CSRF_TRUSTED_ORIGINS = read(
    "CSRF_TRUSTED_ORIGINS",
    "",
    origins,
    "a comma-separated list of origins such as https://search.example.com",
)
CORS_ALLOWED_ORIGINS = read(
    "CORS_ALLOWED_ORIGINS",
    "",
    origins,
    "a comma-separated list of origins such as https://shop.example.com",
)
CORS_URLS_REGEX = r"^/api/"
CORS_ALLOW_CREDENTIALS = False  # nothing under /api/ is authorised by a cookie
CORS_ALLOW_HEADERS = ["authorization", "content-type", "x-api-key", "x-request-id"]
CORS_EXPOSE_HEADERS = ["Retry-After", "Server-Timing", "X-Quota-Remaining", "X-Request-ID"]

HTTPS = read("HTTPS", "false", boolean, "true or false")
HSTS_SECONDS = read("HSTS_SECONDS", "31536000", whole_number(0), "a whole number of seconds of at least 0")
NUM_PROXIES = read("NUM_PROXIES", "0", whole_number(0), "a whole number of proxies of at least 0")
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^api/health", r"^metrics$"]  # asked for by machines, from inside, over http
SECURE_HSTS_SECONDS = HSTS_SECONDS if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
if NUM_PROXIES:  # or any client could say so
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

CACHES = {
    "default": read("CACHE_URL", "locmemcache://", cache, "locmemcache:// or a Redis URL such as redis://host:6379/0")
}
_A_RATE = "off or a rate such as 10/s, 120/min, 5000/hour or 100000/day"
RATE_PER_KEY = read("IMAGESEARCH_RATE_PER_KEY", "off", rate, _A_RATE)
RATE_PER_ADDRESS = read("IMAGESEARCH_RATE_PER_ADDRESS", "off", rate, _A_RATE)
RATE_PICTURES = read("IMAGESEARCH_RATE_PICTURES", "6000/min", rate, _A_RATE)
RATE_WRONG_LOGINS = read("IMAGESEARCH_RATE_WRONG_LOGINS", "20/min", rate, _A_RATE)

HOST = read("HOST", "0.0.0.0", listen_address, "an IP address of this machine, 0.0.0.0 for all, or localhost")  # noqa: S104
PORT = read("PORT", "5000", whole_number(1, 65535), "a port number from 1 to 65535")
# On two cores, one process answers about a tenth fewer searches than two, in half the memory.
_PROCESSES = ceil((os.cpu_count() or 1) / 2)
WEB_PROCESSES = read("WEB_PROCESSES", str(_PROCESSES), whole_number(1), "a whole number of at least 1")
WEB_THREADS = read("WEB_THREADS", "4", whole_number(1), "a whole number of at least 1")
# Requests and pictures are computed side by side; threads of NumPy and FAISS would only wait for each other, at full
# load. The two read this when a process first imports them, which is after its settings.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
LOG_LEVEL = read("LOG_LEVEL", "INFO", one_of("DEBUG", "INFO", "WARNING", "ERROR"), "DEBUG, INFO, WARNING or ERROR")
API_KEYS = read("IMAGESEARCH_API_KEYS", "off", one_of("off", "required"), "off or required")
LOG_FORMAT = read("LOG_FORMAT", "line", one_of("line", "json"), "line or json")
USAGE_SECONDS = 5  # so long a process keeps counts of its searches before it writes them; 0: each request writes them
METRICS_TOKEN = read("METRICS_TOKEN", "", token, "at least 16 letters, digits or signs without a space", secret=True)
MAX_UPLOAD_BYTES = 16 * 1024 * 1024  # part of the API's contract, so not a setting
MAX_BODY_BYTES = MAX_UPLOAD_BYTES + 64 * 1024  # with boundaries, headers and the other fields around the one file
# No file is written to the disk where strangers may post, such as the admin's login; uploads name their own handlers.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]

# Mail
NOTIFY = read("IMAGESEARCH_NOTIFY", "", addresses, "a comma-separated list of mail addresses")
globals().update(  # EMAIL_HOST and what else Django wants to know
    read(
        "EMAIL_URL",
        "smtp://localhost:25",
        mail,
        "a mail server such as smtp+tls://user:password@mail.example.com:587",
        secret=True,
    )
)
EMAIL_TIMEOUT = 10  # seconds
DEFAULT_FROM_EMAIL = read("DEFAULT_FROM_EMAIL", f"imagesearch@{socket.gethostname()}", address, "a mail address")

# Images and indexes
EMBEDDINGS_DIR = read("IMAGESEARCH_EMBEDDINGS_DIR", "embeddings", path, "a directory")
MEDIA_ROOT = read("IMAGESEARCH_MEDIA_DIR", "media", path, "a directory")
IMAGE_ROOTS, IMAGE_STORES = read(
    "IMAGESEARCH_IMAGE_ROOTS", "", image_roots, "a comma-separated list of directories, or of s3://bucket/prefix"
)
MAX_PIXELS = read(
    "IMAGESEARCH_MAX_PIXELS",
    "100000000",
    whole_number(1),
    "a number of pixels (width times height) of at least 1",
)
# Whether searches use a new model once a build has made an index with it, or once somebody says so.
MODEL_SWITCH = read("IMAGESEARCH_MODEL_SWITCH", "automatic", one_of("automatic", "manual"), "automatic or manual")
KEEP_GENERATIONS = read("IMAGESEARCH_KEEP_GENERATIONS", "2", whole_number(0), "a whole number of at least 0")
FOLD_SECONDS = read("IMAGESEARCH_FOLD_SECONDS", "600", whole_number(1), "a whole number of seconds of at least 1")
BUILD_LEASE_SECONDS = read(
    "IMAGESEARCH_BUILD_LEASE_SECONDS", "60", whole_number(1), "a whole number of seconds of at least 1"
)
UNIT_PICTURES = read("IMAGESEARCH_UNIT_PICTURES", "5000", whole_number(1), "a whole number of pictures of at least 1")

CACHE_BYTES = read(
    "IMAGESEARCH_CACHE_BYTES",
    str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2),  # half of the machine's memory
    whole_number(0),
    "a whole number of bytes of at least 0",
)

# Past one machine
STORE = read("IMAGESEARCH_STORE", "", store, "a bucket and a prefix such as s3://bucket/prefix")
STORE_ENDPOINT = read("IMAGESEARCH_STORE_ENDPOINT", "", endpoint, "an address such as https://s3.example.com:9000")
READ_ONLY = read("IMAGESEARCH_READ_ONLY", "false", boolean, "true or false")
WRITE_URL = read("IMAGESEARCH_WRITE_URL", "", endpoint, "an address such as https://admin.example.com")
MILVUS_URL = read("IMAGESEARCH_MILVUS_URL", "", endpoint, "an address such as http://milvus.example.com:19530")
MILVUS_TOKEN = read(
    "IMAGESEARCH_MILVUS_TOKEN", "", password, "an API key, or user:password, without a space", secret=True
)

# Model
WEIGHTS = read("IMAGESEARCH_WEIGHTS", "IMAGENET1K_V1", weights, "IMAGENET1K_V1, IMAGENET1K_V2, builtin or a path")
DEVICE = read("IMAGESEARCH_DEVICE", "auto", one_of("auto", "cpu", "cuda"), "auto, cpu or cuda")
CACHE_DIR = read("IMAGESEARCH_CACHE_DIR", ".cache", path, "a directory")
THUMBNAIL_BYTES = read(
    "IMAGESEARCH_THUMBNAIL_BYTES", "1000000000", whole_number(0), "a whole number of bytes of at least 0"
)
TORCH_HOME = read("TORCH_HOME", f"{user_cache()}/torch", path, "a directory")

# Local copies of what lies in the store
REPLICA_DIR = read("IMAGESEARCH_REPLICA_DIR", str(CACHE_DIR / "replica"), path, "a directory")
REPLICA_BYTES = read(
    "IMAGESEARCH_REPLICA_BYTES",
    str(disk_bytes(REPLICA_DIR) // 2),
    whole_number(0),
    "a whole number of bytes of at least 0",
)
# Nobody reads it in a store, and it is half of what each machine fetches.
WRITE_EMBEDDINGS_NPY = read("IMAGESEARCH_WRITE_EMBEDDINGS_NPY", "false" if STORE else "true", boolean, "true or false")
INDEX_DIR = REPLICA_DIR if STORE else EMBEDDINGS_DIR  # where indexes lie on this machine

DATABASES = {
    "default": read(
        "DATABASE_URL",
        f"sqlite:///{BASE_DIR / 'db.sqlite3'}",
        database,
        "a database URL such as sqlite:////var/lib/imagesearch/db.sqlite3 or postgres://user:password@host:5432/name",
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        # Writers queue for the lock at BEGIN instead of failing half-way with "database is locked".
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "factory": PrivateConnection,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        **DATABASES["default"].get("OPTIONS", {}),
    }
else:
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DATABASES["default"]["CONN_MAX_AGE"] = 60
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "tenants.site.ConfiningAdminConfig",  # django.contrib.admin
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "corsheaders",
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
    "search.http.store_patience.WaitForSeconds",
    "django.middleware.security.SecurityMiddleware",
    "search.http.headers.confine_pages",
    "search.http.headers.keep_credentials_apart",
    "corsheaders.middleware.CorsMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "search.http.return_paths.return_to_the_form",
    "search.http.read_only.RefuseWrites",
    "search.http.logins.limit_wrong_logins",
    "search.http.bodies.bound_bodies",
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
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "search.http.access.ApiKeyAuthentication",
        "rest_framework.authentication.BasicAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],  # search/http/access.py tells to what
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_THROTTLE_CLASSES": ["search.http.limits.CallerThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["search.http.bodies.SmallMultiPartParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "search.http.negotiation.FirstUnlessAsked",
    "UNICODE_JSON": False,  # as Flask: a name that is not UTF-8 has letters that UTF-8 cannot hold
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "search.http.errors.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Image similarity search",
    "VERSION": "1.0.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,  # else the schema declares uploaded images as URLs
    "PREPROCESSING_HOOKS": ["search.api.openapi.drop_slashed_paths"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "search.api.openapi.add_limits",
        "search.api.openapi.add_summaries",
        "search.api.openapi.add_examples",
        "search.api.openapi.search_first",
        "search.api.openapi.introduce",
    ],
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,  # sizes of thumbnails as "320 - 320"
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "defaultModelsExpandDepth": 0, "tryItOutEnabled": True},
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
FORMAT_MODULE_PATH = "imagesearch.formats"  # Django's own for English win over a setting

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
