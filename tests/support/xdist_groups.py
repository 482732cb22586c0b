"""Which modules of tests run one after another in one process, and which begin first."""

from __future__ import annotations

from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

__all__ = ["OneProcessEach", "group_of", "rank_of"]

# By module. What takes longest comes first, so that nothing long is left for the end.
_TOGETHER = {
    # An API server on SQLite may not be asked for changes by several at once (``tools/airflow_server.py`` says why).
    "integration/test_airflow_execution": "Airflow on SQLite",
    "integration/test_trigger_form": "Airflow on SQLite",
    "integration/test_credentials": "Airflow on SQLite",
    "integration/test_example_dags": "Airflow on SQLite",
    # Each has commands of the documents, which are about the newest execution.
    "integration/test_cli_server": "newest execution",
    "integration/test_rest_api": "newest execution",
    "operator/test_ended_operator": "",
    "integration/test_client": "",
    "operator/test_operator": "",
    "integration/test_journal": "",
    "operator/test_sensor": "",
    "integration/test_citizenship": "",
    "integration/test_rest_api_fab": "",
    "cli/test_local_mode": "",
    "predictor/test_pod": "",
}
# By folder: their tests run tasks, or the API, within their own process, where the first one takes ten seconds.
_WITHIN_THE_PROCESS = {"api", "operators"}


def group_of(path: Path) -> str:
    """The name of what a module of tests belongs to: itself, where it stands alone."""
    if path.parent.name in _WITHIN_THE_PROCESS:
        return path.parent.name
    return _TOGETHER.get(_name(path)) or path.as_posix()


def rank_of(path: Path) -> tuple[int, int]:
    """Its place among all; equal ones stay as they are."""
    groups = list(dict.fromkeys(group or name for name, group in _TOGETHER.items()))
    name, folder = _name(path), path.parent.name
    if name in _TOGETHER:
        return groups.index(_TOGETHER[name] or name), list(_TOGETHER).index(name)
    return len(groups) + (folder not in _WITHIN_THE_PROCESS), 0


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


class OneProcessEach(LoadScopeScheduling):
    """Gives each group of modules to one process."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(Path(nodeid.partition("::")[0]))
