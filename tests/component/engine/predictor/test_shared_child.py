"""Pods that several users share, as real processes; each user is a ``Predictor`` of this or another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from predictors import MIB, PredictorStarter, is_running, nothing_left_behind, wait_until

from airflow_batchexec.engine.config.instances import Instance
from airflow_batchexec.engine.machine.files import private_folder
from airflow_batchexec.engine.machine.pods import Machine
from airflow_batchexec.engine.machine.resources import MachineResources
from airflow_batchexec.engine.predictor.child import DeadlineExceeded
from airflow_batchexec.engine.predictor.process import Predictor
from airflow_batchexec.engine.predictor.shared_child import SharedChild, launch_shared
from airflow_batchexec.engine.predictor.spec import PredictorSpec
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.exceptions import (
    ModelLoadError,
    PodDiedError,
    PodMemoryError,
    PredictError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_batchexec.engine.machine.pods import ClaimedPod

PID = """
import os
print("loading")
def predict(df):
    print("predicting")
    return df.assign(pid=os.getpid())
"""
HANG = "import ctypes\ndef predict(df):\n    ctypes.PyDLL(None).sleep(600)\n"
ONE_CPU = Instance("one", 1, 1024 * MIB)
# Starts a process in a session of its own, which outlives its parent unless it is killed.
LEAVES_A_CHILD = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
with open(os.environ["PIDS"], "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
def predict(df):
    return df
"""


class Pods:
    """The shared pods of a machine with two CPUs, below a temporary folder."""

    def __init__(self, folder: Path, *, idle_seconds: float = 600.0) -> None:
        self.starter = PredictorStarter(folder)
        self.idle_seconds = idle_seconds
        self.lines: list[tuple[str, str]] = []
        self.machine = Machine(
            folder=private_folder(folder),
            resources=MachineResources(cpus=2, memory_bytes=8 * 1024 * MIB, gpus=()),
        )
        self.specs: dict[str, PredictorSpec] = {}

    def claim(self, key: str) -> ClaimedPod | None:
        return self.machine.claim_idle(key) or self.machine.claim_new(key, ONE_CPU)

    def predictor(self, user: str, claimed: ClaimedPod, source: str, **options: object) -> Predictor:
        key = claimed.folder.key
        if key not in self.specs:
            self.specs[key] = self.starter.spec(source, instance=ONE_CPU, **options)  # type: ignore[arg-type]
        base = self.specs[key]
        spec = PredictorSpec(
            kind=base.kind,
            folder=base.folder,
            entrypoint=base.entrypoint,
            interpreter=base.interpreter,
            requirements=base.requirements,
            instance=base.instance,
            threads=1,
            parameters=base.parameters,
            scratch=claimed.folder.scratch,
            load_timeout_seconds=base.load_timeout_seconds,
        )
        child = SharedChild(spec=spec, name=user, pod=claimed, idle_seconds=self.idle_seconds)
        return Predictor(
            spec=spec, name=user, on_line=lambda _, line: self.lines.append((user, line)), child=child
        )

    @contextmanager
    def used(
        self, user: str, source: str = PID, *, key: str = "key", **options: object
    ) -> Iterator[Predictor]:
        claimed = self.claim(key)
        assert claimed is not None
        with self.predictor(user, claimed, source, **options) as predictor:
            predictor.start()
            yield predictor

    def predict(self, predictor: Predictor, **options: object) -> int:
        """Predict a file; return the process that did."""
        self.starter.predict(predictor, "a\n1\n", **options)
        return int(self.starter.result.split(",")[-1])

    @property
    def folders(self) -> list[Path]:
        return sorted((self.machine._folder / "pods").glob("*"))

    def end(self) -> None:
        self.machine.end("")
        wait_until(lambda: not self.folders)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    with nothing_left_behind():
        pods = Pods(tmp_path)
        yield pods
        pods.end()


def test_a_pod_is_loaded_once_and_each_user_gets_its_own_output(pods: Pods):
    with pods.used("first") as predictor:
        pid = pods.predict(predictor)
        assert predictor.load_seconds > 0
    with pods.used("second") as predictor:
        assert pods.predict(predictor) == pid
        assert pods.predict(predictor) == pid
        assert predictor.load_seconds == 0
    first, second = ([line for user, line in pods.lines if user == name] for name in ("first", "second"))
    assert first == ["loading", "predicting"]
    assert second == ["predicting", "predicting"]


def test_a_used_pod_is_not_given_to_others_and_a_full_machine_has_none(pods: Pods):
    with pods.used("first") as first, pods.used("second") as second:
        assert pods.predict(first) != pods.predict(second)
        assert pods.claim("key") is None
        assert pods.claim("other") is None
    claimed = pods.claim("key")
    assert claimed is not None
    assert not claimed.is_new
    claimed.release()


def test_an_idle_pod_makes_room_for_another_key(pods: Pods):
    with pods.used("kept") as kept:
        with pods.used("first", key="mine") as predictor:
            pid = pods.predict(predictor)
        assert pods.claim("other") is None
        wait_until(lambda: not is_running(pid) and len(pods.folders) == 1)
        with pods.used("second", key="other") as predictor:
            assert pods.predict(predictor) != pid
        assert pods.predict(kept)


def test_a_pod_started_ahead_is_loading_when_its_first_user_comes(pods: Pods):
    claimed = pods.claim("key")
    assert claimed is not None
    predictor = pods.predictor("ahead", claimed, PID)
    launch_shared(predictor.spec, claimed, idle_seconds=600).close()
    claimed.release()

    with pods.used("first") as first:
        assert first.load_seconds > 0
        assert pods.predict(first)
    assert ("first", "loading") in pods.lines
    assert len(pods.folders) == 1


def test_a_failing_file_leaves_the_pod_to_the_next_user(pods: Pods):
    source = "import os\ndef predict(df):\n    if df.a[0] == 1:\n        raise ValueError('no ones')\n    return df.assign(pid=os.getpid())\n"
    with pods.used("first", source) as predictor, pytest.raises(PredictError, match="no ones"):
        pods.predict(predictor)
    (folder,) = pods.folders
    with pods.used("second", source) as predictor:
        pods.starter.predict(predictor, "a\n2\n")
    assert pods.folders == [folder]


@pytest.mark.parametrize("end", ["deadline", "end", "death"])
def test_a_pod_that_is_given_up_in_the_middle_of_a_file_ends_alone(pods: Pods, end: str):
    source = "import os\ndef predict(df):\n    os._exit(3)\n" if end == "death" else HANG
    with pods.used("other", key="other") as other:
        with pods.used("first", source) as predictor:
            if end == "end":
                threading.Timer(0.2, predictor.end).start()
            deadline = time.monotonic() + 0.5 if end == "deadline" else None
            with pytest.raises((DeadlineExceeded, PodDiedError)) as error:
                pods.starter.predict(predictor, "a\n1\n", deadline=deadline)
            if end == "death":
                assert "exited with status 3" in str(error.value)
            assert not predictor.alive
        assert len(pods.folders) == 1
        assert pods.predict(other)


def test_a_pod_over_its_memory_ends_with_the_reason(pods: Pods):
    source = "def predict(df):\n    return [bytearray(2**30) for _ in range(4)]\n"
    with pods.used("first", source) as predictor, pytest.raises(PodMemoryError, match="instance one"):
        pods.starter.predict(predictor, "a\n1\n")
    assert pods.folders == []


def test_a_build_that_fails_to_load_is_reported_and_its_pod_ends(pods: Pods):
    claimed = pods.claim("key")
    assert claimed is not None
    predictor = pods.predictor("first", claimed, "raise RuntimeError('no weights')")
    with predictor, pytest.raises(ModelLoadError, match="no weights"):
        predictor.start()
    assert pods.folders == []


def test_an_interpreter_that_cannot_run_a_pod_is_reported_with_its_output(pods: Pods, tmp_path: Path):
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\necho this is no Python >&2\nexit 7\n")
    interpreter.chmod(0o755)
    claimed = pods.claim("key")
    assert claimed is not None
    predictor = pods.predictor("first", claimed, PID, interpreter=str(interpreter))
    with predictor, pytest.raises(ModelLoadError, match="exited with status 7") as error:
        predictor.start()
    assert "this is no Python" in error.value.details["traceback"]
    pods.end()


def test_an_interpreter_that_does_not_exist_leaves_no_pod(pods: Pods):
    claimed = pods.claim("key")
    assert claimed is not None
    predictor = pods.predictor("first", claimed, PID, interpreter="/nowhere/python")
    with predictor, pytest.raises(ModelLoadError, match="/nowhere/python"):
        predictor.start()
    assert pods.folders == []


def test_a_pod_whose_socket_cannot_be_made_is_an_error_and_leaves_no_pod(pods: Pods):
    claimed = pods.claim("key")
    assert claimed is not None
    claimed.folder.address.touch()
    predictor = pods.predictor("first", claimed, PID)
    with predictor, pytest.raises(StorageError, match="Cannot start a pod in"):
        predictor.start()
    assert pods.folders == []


def test_an_idle_pod_ends_after_its_time(tmp_path: Path):
    pods = Pods(tmp_path, idle_seconds=0.5)
    with nothing_left_behind():
        with pods.used("first") as predictor:
            pid = pods.predict(predictor)
        wait_until(lambda: not pods.folders and not is_running(pid))


def test_a_pod_ends_when_its_folder_is_removed(pods: Pods):
    with pods.used("first") as predictor:
        pid = pods.predict(predictor)
    (folder,) = pods.folders
    folder.rename(folder.parent / "gone")
    try:
        wait_until(lambda: not is_running(pid))
    finally:
        subprocess.run(["rm", "-r", folder.parent / "gone"], check=False)


def test_the_end_of_an_execution_ends_its_idle_pods_only(pods: Pods):
    with pods.used("first", key="one-a") as predictor:
        mine = pods.predict(predictor)
    with pods.used("second", key="two-a") as other:
        pods.machine.end("one-")
        assert not is_running(mine)
        pods.machine.end("two-")
        assert pods.predict(other)


def test_what_a_killed_supervisor_leaves_is_removed(pods: Pods, tmp_path: Path):
    pids = tmp_path / "pids"
    with pods.used("first", LEAVES_A_CHILD, parameters={"PIDS": str(pids)}):
        pass
    worker, child = map(int, pids.read_text().split())
    os.kill(psutil.Process(worker).ppid(), signal.SIGKILL)
    wait_until(lambda: not is_running(worker))
    assert is_running(child)

    pods.end()
    wait_until(lambda: not is_running(child))


def test_a_user_whose_supervisor_is_killed_learns_it_and_nothing_stays(pods: Pods, tmp_path: Path):
    pids = tmp_path / "pids"
    with pods.used("first", f"{LEAVES_A_CHILD}\n{HANG}", parameters={"PIDS": str(pids)}) as predictor:
        worker, child = map(int, pids.read_text().split())
        supervisor = psutil.Process(worker).ppid()
        threading.Timer(0.2, os.kill, [supervisor, signal.SIGKILL]).start()
        with pytest.raises(PodDiedError, match="lost its supervisor"):
            pods.starter.predict(predictor, "a\n1\n")
    wait_until(lambda: not is_running(worker) and not is_running(child))


def test_output_that_nobody_reads_blocks_no_model(pods: Pods, tmp_path: Path):
    counted = tmp_path / "count"
    source = f"""
import threading, time
def chatter():
    for number in range(25):
        print("x" * 100_000)
        open({str(counted)!r}, "w").write(str(number))
        time.sleep(0.02)
threading.Thread(target=chatter, daemon=True).start()
def predict(df):
    return df.assign(pid=1)
"""
    with pods.used("first", source) as predictor:
        pods.predict(predictor)
    wait_until(lambda: counted.exists() and counted.read_text() == "24")
    with pods.used("second", source) as predictor:
        assert pods.predict(predictor) == 1


KILLED_USER = """
import sys, tempfile
from pathlib import Path
from test_shared_child import HANG, Pods
pods = Pods(Path(sys.argv[1]))
with pods.used("victim", "open(__import__('os').environ['PIDS'], 'w').write(str(__import__('os').getpid()))\\n" + HANG,
               parameters={"PIDS": sys.argv[2]}) as predictor:
    pods.starter.predict(predictor, "a\\n1\\n")
"""


def test_the_pod_of_a_killed_user_ends_and_its_place_is_free(tmp_path: Path):
    pids = tmp_path / "pids"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[3] / "support"), *sys.path]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_USER, tmp_path, pids], env={**os.environ, "PYTHONPATH": ":".join(paths)}
    )
    try:
        wait_until(lambda: pids.exists() and pids.read_text())
        worker = int(pids.read_text())
        process.kill()
        wait_until(lambda: not is_running(worker))
    finally:
        process.kill()
        process.wait()
    pods = Pods(tmp_path)
    wait_until(lambda: not pods.folders)


def test_a_folder_that_others_could_write_to_is_refused(tmp_path: Path):
    folder = private_folder(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(StorageError, match="not a private folder"):
        private_folder(tmp_path)
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="not a private folder"):
        private_folder(tmp_path)


def test_a_user_that_leaves_in_the_middle_of_a_file_leaves_no_busy_pod(pods: Pods, tmp_path: Path):
    with pods.used("first", HANG) as predictor:
        predictor.send(
            input_path=pods.starter.csv("a\n1\n"),
            input_name="in.csv",
            input_type=FileType.CSV,
            output_path=tmp_path / "out.csv",
            output_type=FileType.CSV,
        )
    assert pods.folders == []
