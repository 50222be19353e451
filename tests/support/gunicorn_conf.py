"""The server's own configuration, with a model that needs no weights."""

from typing import Any

from imagesearch.gunicorn_conf import *  # noqa: F403

keepalive = 1
worker_connections = WORKER_CONNECTIONS = 400


def post_worker_init(worker: Any) -> None:
    from search import runtime
    from tests.support.fakes import FakeEmbedder

    runtime.use(FakeEmbedder())
    runtime.warm_up()
