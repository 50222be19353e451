"""gunicorn's ASGI worker, with bounds on the connections that have sent no request."""

import asyncio
import signal
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

_LINGER_SECONDS = 30  # for what is unsent when a connection is closed


class _Protocol(ASGIProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give a connection the time of a kept one, `keepalive`, for its first head; close one too many at once."""
        super().connection_made(transport)
        if self.worker.nr_conns > self.worker.worker_connections:
            transport.abort()  # type: ignore[attr-defined]
        else:
            self._arm_keepalive_timer()

    def _feed_callback_parser(self, data: bytes) -> bool:
        try:
            return bool(super()._feed_callback_parser(data))
        except ValueError:  # a length of more digits than Python reads
            self._send_error_response(400, "Invalid Content-Length value")
            self._close_transport()
            return False

    def _close_transport(self) -> None:
        """Close once all is sent; a client that does not read would keep the connection for ever."""
        super()._close_transport()
        if self.transport and self.transport.get_write_buffer_size():
            self.worker.loop.call_later(_LINGER_SECONDS, self.transport.abort)


class Worker(gasgi.ASGIWorker):
    def init_process(self) -> Any:
        gasgi.ASGIProtocol = _Protocol
        return super().init_process()

    def init_signals(self) -> None:
        """Keep what asks the process to end until somebody acts on it: who loads the model, or the event loop."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        super().run()
