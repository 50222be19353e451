"""gunicorn --config imagesearch/gunicorn_conf.py imagesearch.wsgi"""

import os
import shutil
import socket
import struct
import tempfile
from typing import Any

from imagesearch import settings

bind = f"0.0.0.0:{settings.PORT}"
worker_class = "gthread"
workers = settings.WEB_PROCESSES
threads = settings.WEB_THREADS
# Loaded after the fork: a fork after a threaded FAISS or torch call hangs the child.
preload_app = False
timeout = 120  # seconds
graceful_timeout = 10
_SILENCE_SECONDS = 10  # in the midst of a request or of its answer: then the thread is given to somebody else
forwarded_allow_ips = ""  # X-Forwarded-* is Django's to believe, by NUM_PROXIES
control_socket_disable = True  # two servers of one user would share its path

# Requests are served side by side already, so one request's computing gets its process's share of the cores.
_MODEL_THREADS = max(1, (os.cpu_count() or 1) // workers)
# Read by OpenBLAS and OpenMP when a worker first imports them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", str(_MODEL_THREADS))
os.environ.setdefault("OMP_NUM_THREADS", str(_MODEL_THREADS))

# gunicorn's own words go where all others go, and look like them.
logconfig_dict = {**settings.LOGGING, "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["stderr"]}}}


def on_starting(server: Any) -> None:
    """Make the place where the processes' metrics are added up; those of an earlier start do not belong there."""
    if settings.METRICS_TOKEN:
        server.metrics_directory = tempfile.mkdtemp(prefix="imagesearch-metrics-")
        os.environ.update(PROMETHEUS_MULTIPROC_DIR=server.metrics_directory)


def when_ready(server: Any) -> None:
    """Bound how long a client may keep a thread waiting; connections take this over from what they were accepted on."""
    for listener in server.LISTENERS:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _SILENCE_SECONDS, 0))


def on_exit(server: Any) -> None:
    if settings.METRICS_TOKEN:
        shutil.rmtree(server.metrics_directory, ignore_errors=True)


def child_exit(server: Any, worker: Any) -> None:
    """Take away what a process that has ended says of its present; what it has counted stays."""
    if settings.METRICS_TOKEN:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid, server.metrics_directory)


def post_worker_init(worker: Any) -> None:
    """Load the model and run it once before the process accepts its first request."""
    from search import runtime

    runtime.use_threads(_MODEL_THREADS)
    runtime.warm_up_now_or_later()
