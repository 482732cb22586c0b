"""A client for Airflow's REST API, usable in any process."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["AirflowAddress", "AirflowClient"]

_POLL_SECONDS = 0.5
_ENDED = {"success", "failed"}


@dataclass(frozen=True)
class AirflowAddress:
    """How to reach an Airflow; picklable.

    Attributes:
        url: The URL of its API server, including the path.
        home: Its folder, which contains the log of each component.
        passwords: The users' passwords, an admin's first. Without users, every request has admin rights.
        pids: The process ID of each component, such as ``scheduler``.
        environment: The environment variables of the components.
    """

    url: str
    home: Path
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    pids: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class AirflowClient:
    """Calls Airflow's REST API as an admin.

    Args:
        address: The Airflow.
    """

    def __init__(self, address: AirflowAddress) -> None:
        self.address = address
        self._session = requests.Session()

    @property
    def url(self) -> str:
        """The URL of its API server."""
        return self.address.url

    @property
    def home(self) -> Path:
        """Its folder."""
        return self.address.home

    @property
    def passwords(self) -> Mapping[str, str]:
        """The passwords of its users."""
        return self.address.passwords

    def log_in(self) -> None:
        """Get a token and use it for all requests."""
        self._session.headers["Authorization"] = f"Bearer {self.token()}"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def token(self, user: str = "") -> str:
        """Get a token for a user, by default for the first one."""
        address = f"{self.url}/auth/token"
        if not self.passwords:
            return str(self._session.get(address, timeout=30).json()["access_token"])
        name = user or next(iter(self.passwords))
        login = {"username": name, "password": self.passwords[name]}
        return str(requests.post(address, json=login, timeout=30).json()["access_token"])

    def api(self, method: str, path: str, **arguments: Any) -> Any:
        """Call Airflow's REST API.

        Raises:
            RuntimeError: Airflow returned an error; the message contains its status and body.
        """
        response = self._session.request(method, f"{self.url}/api/v2/{path}", timeout=60, **arguments)
        if not response.ok:
            raise RuntimeError(f"Airflow returned {response.status_code}: {response.text}")
        return response.json() if response.content else None

    def wait_for_dag(self, dag_id: str) -> None:
        """Wait until the DAG has been parsed.

        Raises:
            RuntimeError: The DAG has an import error, or was not parsed in time.
        """

        def parsed() -> bool:
            if self._session.get(f"{self.url}/api/v2/dags/{dag_id}", timeout=30).ok:
                return True
            errors = self.api("GET", "importErrors")["import_errors"]
            if errors:
                raise RuntimeError(errors[0]["stack_trace"])
            return False

        self.wait_until(parsed, f"The DAG {dag_id} was not parsed")

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Trigger a run and return its ID."""
        run = self.api("POST", f"dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": dict(conf)})
        return str(run["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """A run in its current state."""
        run: dict[str, Any] = self.api("GET", f"dags/{dag_id}/dagRuns/{run_id}")
        return run

    def wait_for_run(
        self,
        dag_id: str,
        run_id: str,
        *,
        timeout: float = 300.0,
        on_poll: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Wait until a run has ended, and return it.

        Raises:
            RuntimeError: The run did not end within ``timeout`` seconds.
        """

        def ended() -> bool:
            if on_poll is not None:
                on_poll()
            return self.run(dag_id, run_id)["state"] in _ENDED

        self.wait_until(ended, f"The run {run_id} did not end", timeout=timeout)
        return self.run(dag_id, run_id)

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """All task instances of a run."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=1000"
        instances: list[dict[str, Any]] = self.api("GET", path)["task_instances"]
        return instances

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, attempt: int = 1
    ) -> str:
        """The log of one attempt of a task, one line per event."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}?map_index={map_index}"
        return "\n".join(_event_text(event) for event in self.api("GET", path)["content"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value") -> Any:
        """An XCom value that a task pushed."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.api("GET", path, params={"deserialize": "true"})["value"]

    def wait_until(self, condition: Callable[[], bool], failure: str, *, timeout: float = 300.0) -> None:
        """Wait until a condition holds.

        Raises:
            RuntimeError: The condition does not hold within ``timeout`` seconds, or a component of Airflow has exited;
                the message starts with ``failure``.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            for component, pid in self.address.pids.items():
                if not _is_alive(pid):
                    raise RuntimeError(
                        f"{failure}: Airflow's {component} has exited; see the logs in {self.home}."
                    )
            if time.monotonic() > deadline:
                raise RuntimeError(f"{failure} within {timeout:g} s; see the logs in {self.home}.")
            time.sleep(_POLL_SECONDS)


def _event_text(event: Any) -> str:
    if not isinstance(event, dict):
        return str(event)
    details = "".join(f"\n{e['exc_type']}: {e['exc_value']}" for e in event.get("error_detail") or [])
    return f"{event.get('event', '')}{details}"


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
