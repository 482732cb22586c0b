"""Which modules of tests run one after another in one process, so that they share what takes long to start."""

from __future__ import annotations

from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

__all__ = ["OneProcessEach", "group_of", "rank_of"]

# By module. What takes longest comes first, so that nothing long is left for the end.
_TOGETHER = {
    "integration/test_airflow_execution": "one Airflow",
    "integration/test_trigger_form": "one Airflow",
    "integration/test_journal": "one Airflow",
    "integration/test_client": "one Airflow",
    "integration/test_operator": "an Airflow with a triggerer",
    "integration/test_example_dags": "an Airflow with a triggerer",
    "integration/test_credentials": "an Airflow with a triggerer",
    "integration/test_cli_server": "an Airflow with users on PostgreSQL",
    "integration/test_rest_api": "an Airflow with users on PostgreSQL",
    "soak/test_killing": "killing",
    "integration/test_citizenship": "citizenship",
    "cli/test_local_mode": "local mode",
}
_GROUPS = list(dict.fromkeys(_TOGETHER.values()))
# Their tests run tasks within their own process, where the first one takes ten seconds.
_WITHIN_THE_PROCESS = "operators"


def group_of(path: Path) -> str:
    """The name of what a module of tests belongs to: itself, where it stands alone."""
    if path.parent.name == _WITHIN_THE_PROCESS:
        return _WITHIN_THE_PROCESS
    return _TOGETHER.get(_name(path), path.as_posix())


def rank_of(path: Path) -> tuple[int, int]:
    """Its place among all; equal ones stay as they are."""
    names = list(_TOGETHER)
    if _name(path) in _TOGETHER:
        return _GROUPS.index(group_of(path)), names.index(_name(path))
    return len(_GROUPS), 0


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


class OneProcessEach(LoadScopeScheduling):
    """Gives each group of modules to one process."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(Path(nodeid.partition("::")[0]))
