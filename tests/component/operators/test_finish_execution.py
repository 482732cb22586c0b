"""How ``finish`` detects that an execution was ended externally, even if an earlier try of ``finish`` was lost."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.config.locations import AllowedLocations, Location
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, LedgerWriter
from airflow_batchexec.engine.execution.lock import LockOwner, OwnerState
from airflow_batchexec.engine.execution.manifest import ExecutionStatus
from airflow_batchexec.engine.execution.plan import read_tasks
from airflow_batchexec.engine.execution.preparation import prepare
from airflow_batchexec.engine.execution.stop import StopMark
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import ExecutionCancelledError, ModelLoadError
from airflow_batchexec.operators.finish_execution import FinishExecutionOperator, _cancelled_by
from airflow_batchexec.operators.task_journal import TaskJournal

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_batchexec.engine.execution.spec import ExecutionSpec


class KilledStorage(LocalStorage):
    """Simulates a kill of the task while it waits for pods, which is when it lists."""

    def list(self, location: Location) -> Any:
        raise SystemExit


@pytest.fixture
def spec(tmp_path: Path) -> ExecutionSpec:
    """An execution of one file whose pod was terminated."""
    build = tmp_path / "models" / "m" / "b1"
    build.mkdir(parents=True)
    (build / "model.toml").write_text('entrypoint = "model:predict"\n')
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("x\n1\n")
    prepared = prepare(
        config=ExecutionConfig.from_fields(
            model_id="m",
            build_id="b1",
            source_folder=f"file://{tmp_path}/in",
            destination_folder=f"file://{tmp_path}/out",
        ),
        owner=LockOwner("run"),
        owner_state=lambda _: OwnerState.RUNNING,
        round_id="0",
        started_at=100.0,
        repository=ModelRepository(
            root=Location.of_path(tmp_path / "models"), storage=LocalStorage(), cache=tmp_path / "cache"
        ),
        instances=InstanceTable(),
        open_storage=lambda _: LocalStorage(),
        allowed=AllowedLocations((Location.parse("file:///"),)),
        default_pods=0,
        max_shards=1,
    )
    spec = prepared.spec
    (task,) = read_tasks(LocalStorage().read(spec.folder.plan))
    ledger = LedgerWriter(storage=LocalStorage(), folder=spec.folder.ledger("0"), writer="0")
    ledger.add(
        FileRecord(
            file=task.file, etag=task.etag, status=FileStatus.CANCELLED, pod="pod-0", attempt=1, at=101.0
        )
    )
    ledger.close()
    return spec


def ended(
    spec: ExecutionSpec, storage: LocalStorage, *, cancelled_by: str = "", **instances: int
) -> tuple[ExecutionStatus | None, str]:
    """The status and reason that ``finish`` reports, given the number of mapped tasks in each state."""
    finish = FinishExecutionOperator(task_id="finish", plan_task_id="plan", predict_task_id="predict")
    ti = SimpleNamespace(
        dag_id="d", run_id="r", get_ti_count=lambda *, states, **_: sum(instances.get(s, 0) for s in states)
    )
    context: Any = {"ti": ti, "dag_run": SimpleNamespace(clear_number=0)}
    return finish._end_status(spec, storage, context, cancelled_by)


def cancel_mark(spec: ExecutionSpec) -> StopMark:
    return StopMark(storage=LocalStorage(), location=spec.folder.cancel)


def test_a_try_lost_while_ending_pods_does_not_change_the_status_of_the_next(spec: ExecutionSpec):
    with pytest.raises(SystemExit):
        ended(spec, KilledStorage(), failed=1)
    assert cancel_mark(spec).read() is not None

    assert ended(spec, LocalStorage(), failed=1) == (None, "")
    assert cancel_mark(spec).read() is None


def test_another_owners_cancel_mark_counts(spec: ExecutionSpec):
    reason = "The waiting task was cleared."
    cancel_mark(spec).set(ExecutionCancelledError(reason))

    assert ended(spec, LocalStorage(), failed=1) == (ExecutionStatus.CANCELLED, reason)


def test_a_cancel_through_the_api_waits_for_all_pods_and_removes_its_mark(spec: ExecutionSpec):
    why = "It was cancelled by maria."
    with pytest.raises(SystemExit):
        ended(spec, KilledStorage(), cancelled_by=why, failed=1)
    # The mark makes the pods stop while finish waits for them.
    mark = cancel_mark(spec).read()
    assert mark is not None
    assert mark["reason"] == why

    assert ended(spec, LocalStorage(), cancelled_by=why, failed=1) == (ExecutionStatus.CANCELLED, why)
    assert cancel_mark(spec).read() is None


def test_a_cancel_through_the_api_overrides_a_pods_failure(spec: ExecutionSpec):
    stop = StopMark(storage=LocalStorage(), location=spec.folder.stop("0"))
    stop.set(ModelLoadError("The build failed to load."))

    assert ended(spec, LocalStorage(), cancelled_by="So.") == (ExecutionStatus.CANCELLED, "So.")
    assert ended(spec, LocalStorage()) == (ExecutionStatus.FAILED, "The build failed to load.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"generation": 2, "by": "maria", "at": 1.0}, "It was cancelled by maria."),
        ({"generation": 2, "by": "two\nlines\x1b[31m", "at": 1.0}, "It was cancelled by two lines [31m."),
        ({"generation": 2, "by": "x" * 10_000}, f"It was cancelled by {'x' * 200}."),
        ({"generation": 2}, "It was cancelled by an unknown user."),
        ({"generation": 1, "by": "maria", "at": 1.0}, ""),
        ("maria", ""),
        (None, ""),
    ],
)
def test_only_a_cancel_of_this_generation_counts(row: Any, reason: str):
    store = SimpleNamespace(get={"cancelled": row}.get, set=lambda *_: None)
    context: Any = {
        "ti": SimpleNamespace(try_number=1),
        "dag_run": SimpleNamespace(clear_number=2),
        "task_state_store": store,
    }
    journal = TaskJournal(context, name="finish", log=logging.getLogger("task"))

    assert _cancelled_by(journal, context) == reason
    journal.close()
