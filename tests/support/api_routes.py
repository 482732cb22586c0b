"""All routes of the REST API, read from the application, so that tests cover new routes automatically."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi.routing import APIRoute

from airflow_batchexec.api.app import create_app

__all__ = ["ROUTES", "Route"]

_CALLS = {
    "start_job": "start",
    "job_status": "status",
    "job_report": "report",
    "cancel_job": "cancel",
    "job_details": "details",
    "list_jobs": "list",
}


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes:
        method: The HTTP method.
        path: The path relative to the API's mount point, with ``{execution_id}``.
        call: The call's name on the wire; empty for routes outside of the wire.
    """

    method: str
    path: str
    call: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def changes(self) -> bool:
        """Whether the route changes something."""
        return self.method != "GET"

    @property
    def told(self) -> str:
        """The response field for the success of the call."""
        return "successful" if self.call == "report" else "success"

    def path_of(self, execution_id: str) -> str:
        """The path for an execution."""
        return self.path.replace("{execution_id}", execution_id)


def _routes() -> list[Route]:
    app = create_app()
    assert all(isinstance(route, APIRoute) for route in app.routes), "all routes belong to the API"
    return [
        Route(method, route.path, _CALLS.get(route.name, ""))
        for route in app.routes
        for method in sorted(route.methods)
    ]


ROUTES = _routes()
