"""Which test modules run sequentially in one xdist worker, and which start first."""

from __future__ import annotations

from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

__all__ = ["GroupScheduling", "group_of", "rank_of"]

# The group of each module; an empty name puts it in one by itself. Slowest first, so that no long module runs last.
_GROUPS = {
    # An API server on SQLite must not get concurrent write requests (``tools/airflow_server.py`` explains why).
    "integration/test_airflow_execution": "Airflow on SQLite",
    "integration/test_trigger_form": "Airflow on SQLite",
    "integration/test_credentials": "Airflow on SQLite",
    "integration/test_example_dags": "Airflow on SQLite",
    # Both run commands from the documentation, which refer to the newest execution.
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
    "predictor/test_predictor": "",
}
# Folders whose tests run tasks, or the API, in their own process; the first such test in a process takes ten seconds.
_IN_PROCESS_FOLDERS = {"api", "operators"}


def group_of(path: Path) -> str:
    """The name of a test module's group; its own path if it belongs to none."""
    if path.parent.name in _IN_PROCESS_FOLDERS:
        return path.parent.name
    return _GROUPS.get(_name(path)) or path.as_posix()


def rank_of(path: Path) -> tuple[int, int]:
    """The sort key of a test module; modules with equal keys keep their order."""
    groups = list(dict.fromkeys(group or name for name, group in _GROUPS.items()))
    name, folder = _name(path), path.parent.name
    if name in _GROUPS:
        return groups.index(_GROUPS[name] or name), list(_GROUPS).index(name)
    return len(groups) + (folder not in _IN_PROCESS_FOLDERS), 0


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


class GroupScheduling(LoadScopeScheduling):
    """Assigns each group of modules to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(Path(nodeid.partition("::")[0]))
