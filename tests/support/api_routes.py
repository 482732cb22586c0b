"""Every route of the REST API, taken from the application itself, so that a new one cannot be forgotten by a test."""

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
        path: The path below where the API is mounted, with ``{execution_id}``.
        call: What the wire calls it; empty where it is none of the wire's calls.
    """

    method: str
    path: str
    call: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def changes(self) -> bool:
        """Whether it changes something."""
        return self.method != "GET"

    @property
    def told(self) -> str:
        """The field that says whether the call succeeded."""
        return "successful" if self.call == "report" else "success"

    def path_of(self, execution_id: str) -> str:
        """The path for one execution."""
        return self.path.replace("{execution_id}", execution_id)


def _routes() -> list[Route]:
    app = create_app()
    assert all(isinstance(route, APIRoute) for route in app.routes), "only routes of our own answer"
    return [
        Route(method, route.path, _CALLS.get(route.name, ""))
        for route in app.routes
        for method in sorted(route.methods)
    ]


ROUTES = _routes()
