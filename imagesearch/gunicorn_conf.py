"""gunicorn --config imagesearch/gunicorn_conf.py imagesearch.asgi"""

import gc
import os
import resource
import shutil
import tempfile
from typing import Any

from imagesearch import settings

bind = f"{settings.HOST}:{settings.PORT}"
worker_class = "imagesearch.gunicorn_worker.Worker"
workers = settings.WEB_PROCESSES
asgi_lifespan = "off"
keepalive = 10  # seconds for the whole head of a request
worker_connections = 1000
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)  # and indexes beside
# Loaded after the fork: a fork after a threaded FAISS or torch call hangs the child.
preload_app = False
timeout = 120  # seconds
graceful_timeout = 10
forwarded_allow_ips = ""  # X-Forwarded-* is Django's to believe, by NUM_PROXIES
control_socket_disable = True  # two servers of one user would share its path

_MODEL_THREADS = max(1, (os.cpu_count() or 1) // workers)  # of a process's share of the cores

# gunicorn's own words go where all others go, and look like them.
logconfig_dict = {**settings.LOGGING, "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["stderr"]}}}


def on_starting(server: Any) -> None:
    """Make the place where the processes' metrics are added up; those of an earlier start do not belong there."""
    server.metrics_directory = None
    if settings.METRICS_TOKEN:
        try:
            server.metrics_directory = tempfile.mkdtemp(prefix="imagesearch-metrics-")
            os.environ.update(PROMETHEUS_MULTIPROC_DIR=server.metrics_directory)
        except OSError as error:
            server.log.error("Each process tells /metrics of itself alone: %s", error)


def on_exit(server: Any) -> None:
    if server.metrics_directory:
        shutil.rmtree(server.metrics_directory, ignore_errors=True)


def child_exit(server: Any, worker: Any) -> None:
    """Take away what a process that has ended says of its present; what it has counted stays."""
    if server.metrics_directory:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid, server.metrics_directory)


def post_worker_init(worker: Any) -> None:
    """Load the model and run it once before the process accepts its first request."""
    from search import notices, prefetch, runtime
    from search.companies.model_change import warm_up_now_or_later

    runtime.use_threads(_MODEL_THREADS)
    runtime.believe_others()
    notices.look_in_background()
    prefetch.look_in_background()
    warm_up_now_or_later()
    gc.freeze()  # what lives as long as the process; looking through it took a search 0.1 s now and then
