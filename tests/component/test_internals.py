"""Uses of Airflow beyond its public interface that can be tested without a running Airflow."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import psutil
import pytest
from predictors import is_running, wait_until

# A supervisor that forks a task, as Airflow's does, with a socket between the two.
SUPERVISOR = """
import os
import socket
import sys
import time

from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder

from airflow_batchexec.internals import die_with_supervisor

ours, theirs = socket.socketpair()
if os.fork() == 0:
    if sys.argv[1] == "supervised":
        task_runner.SUPERVISOR_COMMS = CommsDecoder(socket=theirs)
    die_with_supervisor()
    print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["supervised", "in process"])
def test_only_a_supervised_task_dies_with_its_parent(how: str):
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, how], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        task = psutil.Process(int(supervisor.stdout.readline()))
        assert task.ppid() == supervisor.pid
        supervisor.kill()
        supervisor.wait()
        try:
            if how == "supervised":
                wait_until(lambda: not is_running(task.pid))
            else:
                wait_until(lambda: task.ppid() != supervisor.pid)
                assert is_running(task.pid)
        finally:
            with suppress(psutil.NoSuchProcess):
                task.kill()
