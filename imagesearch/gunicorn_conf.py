"""gunicorn --config imagesearch/gunicorn_conf.py imagesearch.wsgi"""

import logging
import os
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
forwarded_allow_ips = ""  # X-Forwarded-* is Django's to believe, by NUM_PROXIES
control_socket_disable = True  # two servers of one user would share its path

# Requests are served side by side already, so one request's linear algebra gets its process's share of the cores.
# Read by OpenBLAS and OpenMP when a worker first imports them.
_cores_a_process = str(max(1, (os.cpu_count() or 1) // workers))
os.environ.setdefault("OPENBLAS_NUM_THREADS", _cores_a_process)
os.environ.setdefault("OMP_NUM_THREADS", _cores_a_process)


def post_worker_init(worker: Any) -> None:
    """Load the model and run it once before the process accepts its first request."""
    from search import runtime
    from search.engine.errors import EngineError

    try:
        runtime.warm_up()
    except EngineError as error:  # searches answer 503 with it; everything else works
        logging.getLogger(__name__).error("%s", error)
