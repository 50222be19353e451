"""gunicorn's ASGI worker, with bounds on the connections that have sent no request."""

import asyncio
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi


class _Protocol(ASGIProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give a connection the time of a kept one, `keepalive`, for its first head; close one too many at once."""
        super().connection_made(transport)
        if self.worker.nr_conns > self.worker.worker_connections:
            transport.abort()  # type: ignore[attr-defined]
        else:
            self._arm_keepalive_timer()


class Worker(gasgi.ASGIWorker):
    def init_process(self) -> Any:
        gasgi.ASGIProtocol = _Protocol
        return super().init_process()
