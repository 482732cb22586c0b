"""The execution lock: at most one execution holds it, and the lock of an ended owner is taken over."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from uuid import uuid4

import pytest

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.config.model import Identity
from airflow_batchexec.engine.execution.lock import (
    LockOwner,
    OwnerState,
    acquire,
    local_owner_state,
    lock_location,
    release,
)
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.engine.storage.s3.session import S3Access
from airflow_batchexec.engine.storage.s3.storage import connect
from airflow_batchexec.exceptions import ExecutionRunningError, ObjectNotFoundError

IDENTITY = Identity("m", "1", "s3://b", "in", "s3://b", "out")
CONTENDER = """
import sys
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.execution.lock import LockOwner, OwnerState, acquire
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import ExecutionRunningError

location, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
try:
    acquire(
        storage=LocalStorage(),
        location=Location.parse(location),
        owner=LockOwner(name),
        state_of=lambda owner: OwnerState.ENDED if owner.execution_id == "ended" else OwnerState.RUNNING,
    )
    print("taken", flush=True)
except ExecutionRunningError:
    print("refused", flush=True)
"""


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.server)])
def place(request, tmp_path):
    """A storage and the location of a lock in it."""
    if request.param == "local":
        return LocalStorage(), lock_location(Location.of_path(tmp_path / "out"), IDENTITY)
    server = request.getfixturevalue("s3_server")
    storage = connect(
        S3Access(
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
            endpoint_url=server.endpoint_url,
            region_name=server.region,
        )
    )
    return storage, lock_location(Location.parse(f"s3://{server.make_bucket()}/{uuid4().hex}"), IDENTITY)


def make_state_of(ended=(), unknown=()):
    def state_of(owner):
        if owner.execution_id in ended:
            return OwnerState.ENDED
        return OwnerState.UNKNOWN if owner.execution_id in unknown else OwnerState.RUNNING

    return state_of


def take(place, owner, state_of=None):
    storage, location = place
    return acquire(storage=storage, location=location, owner=owner, state_of=state_of or make_state_of())


def holder(place):
    storage, location = place
    return LockOwner(**json.loads(storage.read(location)))


def contend(place, state_of):
    """Let sixteen threads compete for the lock; return the winners."""
    barrier = threading.Barrier(16)
    winners, losers = [], []

    def work(name):
        barrier.wait()
        try:
            assert take(place, LockOwner(name), state_of)
            winners.append(name)
        except ExecutionRunningError as error:
            losers.append(error.details["execution_id"])

    threads = [threading.Thread(target=work, args=(f"execution-{n}",)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) + len(losers) == 16
    assert set(losers) == set(winners)
    return winners


def test_only_one_of_many_threads_acquires_the_lock(place):
    (winner,) = contend(place, make_state_of())
    assert holder(place) == LockOwner(winner)


def test_only_one_of_many_threads_takes_over_the_lock_of_an_ended_owner(place):
    take(place, LockOwner("ended"))
    (winner,) = contend(place, make_state_of(ended={"ended"}))
    assert holder(place) == LockOwner(winner)


@pytest.mark.parametrize("before", [None, "ended"])
def test_only_one_of_many_processes_acquires_the_lock(tmp_path, before):
    place = LocalStorage(), lock_location(Location.of_path(tmp_path / "out"), IDENTITY)
    if before:
        take(place, LockOwner(before))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, place[1].uri, f"execution-{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(8)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        outcomes = [process.communicate(timeout=600)[0].strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert sorted(outcomes) == ["refused"] * 7 + ["taken"]
    assert holder(place).execution_id == f"execution-{outcomes.index('taken')}"


def test_acquiring_a_held_lock_again_is_a_no_op(place):
    owner = LockOwner("scheduled__1", dag_id="d", run_id="scheduled__1")
    assert take(place, owner) is True
    assert take(place, owner) is False
    assert holder(place) == owner


def test_an_execution_with_the_same_identity_is_refused_with_the_name_of_the_owner(place):
    take(place, LockOwner("first", dag_id="batch_execution", run_id="first"))
    with pytest.raises(
        ExecutionRunningError, match=r"is running: first \(DAG batch_execution, run first\)"
    ) as caught:
        take(place, LockOwner("second", dag_id="batch_execution", run_id="second"))
    assert caught.value.details["execution_id"] == "first"


def test_a_run_with_the_same_id_in_another_dag_is_another_execution(place):
    take(place, LockOwner("manual__1", dag_id="a", run_id="manual__1"))
    with pytest.raises(ExecutionRunningError):
        take(place, LockOwner("manual__1", dag_id="b", run_id="manual__1"))


def test_the_lock_of_an_owner_in_unknown_state_is_not_taken_over(place):
    take(place, LockOwner("lost", host="elsewhere", pid=7))
    with pytest.raises(ExecutionRunningError) as caught:
        take(place, LockOwner("second"), make_state_of(unknown={"lost"}))
    assert "lost (process 7 on elsewhere)" in caught.value.message
    assert f"delete {place[1].uri}" in caught.value.message
    assert holder(place).execution_id == "lost"


@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b'{"owner": 1}', b"\xff"])
def test_an_unreadable_lock_is_left_alone(place, content):
    storage, location = place
    storage.write(location, content)
    with pytest.raises(ExecutionRunningError, match="does not name its owner") as caught:
        take(place, LockOwner("second"))
    assert caught.value.details["uri"] == location.uri
    release(storage=storage, location=location, owner=LockOwner("second"))
    assert storage.read(location) == content


def test_only_the_owner_releases_the_lock(place):
    storage, location = place
    take(place, LockOwner("first", dag_id="a"))
    for other in (LockOwner("second", dag_id="a"), LockOwner("first", dag_id="b")):
        release(storage=storage, location=location, owner=other)
        assert holder(place).execution_id == "first"
    release(storage=storage, location=location, owner=LockOwner("first", dag_id="a"))
    with pytest.raises(ObjectNotFoundError):
        storage.stat(location)
    release(storage=storage, location=location, owner=LockOwner("first", dag_id="a"))
    assert take(place, LockOwner("second")) is True


def test_an_owner_whose_lock_was_taken_over_does_not_release_it(place):
    storage, location = place
    take(place, LockOwner("ended"))
    take(place, LockOwner("second"), make_state_of(ended={"ended"}))
    release(storage=storage, location=location, owner=LockOwner("ended"))
    assert holder(place) == LockOwner("second")


def test_each_identity_has_its_own_lock():
    out = Location.parse("s3://b/out")
    first = lock_location(out, IDENTITY)
    assert out.join("_batchexec/locks").contains(first)
    assert first != lock_location(out, replace(IDENTITY, build_id="2"))


# ---- local owners


def test_this_process_is_running():
    owner = LockOwner.this_process("x")
    assert owner.host == socket.gethostname()
    assert local_owner_state(LockOwner(**json.loads(json.dumps(asdict(owner))))) is OwnerState.RUNNING


def test_a_killed_process_and_the_earlier_owner_of_a_reused_pid_have_ended():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        owner = replace(LockOwner.this_process("x"), pid=process.pid, started=0.0)
        assert local_owner_state(owner) is OwnerState.ENDED
    finally:
        process.kill()
        process.communicate()
    assert local_owner_state(replace(LockOwner.this_process("x"), pid=process.pid)) is OwnerState.ENDED


def test_the_state_of_owners_elsewhere_is_unknown():
    here = LockOwner.this_process("x")
    assert local_owner_state(replace(here, host="elsewhere")) is OwnerState.UNKNOWN
    assert local_owner_state(LockOwner("x", dag_id="d", run_id="x")) is OwnerState.UNKNOWN
