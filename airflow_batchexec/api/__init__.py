"""The REST API, served by Airflow's API server below ``/batchexec``.

Every Airflow process loads the plugin, but only the API server serves requests. So the plugin holds the thin wrapper
below, and the app is imported on the first request.
"""

from __future__ import annotations

import asyncio
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

__all__ = ["URL_PREFIX", "LazyApp"]

URL_PREFIX = "/batchexec"
"""Where the API server mounts the API."""


class LazyApp:
    """An ASGI application that builds the API on its first request."""

    def __init__(self) -> None:
        self._app: Any = None
        self._lock = Lock()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Serve one request."""
        # In a thread, so that the event loop keeps serving other requests during the slow imports.
        app = self._app or await asyncio.to_thread(self._build)
        await app(scope, receive, send)

    def _build(self) -> Any:
        from airflow_batchexec.api.app import create_app  # noqa: PLC0415  only the API server needs it

        with self._lock:
            self._app = self._app or create_app()
        return self._app
