"""The REST API, served by Airflow's API server below ``/batchexec``.

Every process of Airflow loads the plugin, and only the API server ever serves a request. So what the plugin holds is the
door below; what is behind it is imported when somebody knocks for the first time.
"""

from __future__ import annotations

import asyncio
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

__all__ = ["URL_PREFIX", "LazyApp"]

URL_PREFIX = "/batchexec"
"""Where the API server mounts it."""


class LazyApp:
    """The API as an ASGI application that is built for its first request."""

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
        # Imports take their time, in which the server is to answer others.
        app = self._app or await asyncio.to_thread(self._build)
        await app(scope, receive, send)

    def _build(self) -> Any:
        from airflow_batchexec.api.app import create_app  # noqa: PLC0415  only where it is served

        with self._lock:
            self._app = self._app or create_app()
        return self._app
