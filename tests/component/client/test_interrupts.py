"""Interrupts of a waiting client: in a separate process, on a terminal, with real signals."""

from __future__ import annotations

import signal
import threading

import pytest
from scripted_server import API, DROP, START, STARTED, Reply, status_of
from terminal import Terminal

from airflow_batchexec.client.interruption import signals_as_interrupts

JOB = f"{API}batch-job/rest__1"
STATUS = f"GET {JOB}/status"
CANCEL = f"POST {JOB}/cancel"
CANCELLED = {"success": True, "failure_message": ""}

WAIT = """
from airflow_batchexec.client import BatchJobManagerClient
BatchJobManagerClient({url!r}, token="t", retries=1).wait_for_execution("rest__1", poll_interval=0.05)
"""
RUN = """
from airflow_batchexec.client import BatchJobManagerClient, ExecutionConfig
execution = ExecutionConfig.Execution(model_id="m", bucket="b", source_folder="i", destination_folder="o")
BatchJobManagerClient({url!r}, token="t").run_execution(ExecutionConfig(execution=execution))
"""


@pytest.fixture
def on_terminal(server):
    """Start a program on its own controlling terminal."""
    terminals = []

    def start(program):
        terminals.append(Terminal(program.format(url=server.url)))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def test_ctrl_c_cancels_reports_it_and_raises_keyboard_interrupt(server, on_terminal):
    server.on(STATUS, status_of("RUNNING", 1, 3))
    server.on(CANCEL, CANCELLED)
    terminal = on_terminal(WAIT)
    terminal.wait_for_text("1/3")
    terminal.press_ctrl_c()
    code, shown = terminal.end()
    assert code == -signal.SIGINT
    assert "cancelling execution rest__1" in shown
    assert "Execution rest__1 is cancelled." in shown
    assert "KeyboardInterrupt" in shown
    assert server.calls().count(CANCEL) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_termination_signals_cancel_as_well(server, on_terminal, number):
    server.on(STATUS, status_of("RUNNING"))
    server.on(CANCEL, CANCELLED)
    terminal = on_terminal(WAIT)
    server.wait_for(STATUS, 2)
    terminal.process.send_signal(number)
    code, shown = terminal.end()
    assert code != 0
    assert "Execution rest__1 is cancelled." in shown
    assert server.calls().count(CANCEL) == 1


def test_a_second_ctrl_c_exits_at_once(server, on_terminal):
    never = threading.Event()
    server.on(STATUS, status_of("RUNNING"))
    server.on(CANCEL, Reply(body=CANCELLED, gate=never))
    terminal = on_terminal(WAIT)
    server.wait_for(STATUS, 2)
    terminal.press_ctrl_c()
    server.wait_for(CANCEL)
    terminal.press_ctrl_c()
    code, shown = terminal.end()
    assert code == -signal.SIGINT
    assert "is cancelled." not in shown
    assert not never.is_set()


def test_a_failed_cancel_is_reported(server, on_terminal):
    server.on(STATUS, status_of("RUNNING"))
    server.on(CANCEL, Reply(403, {"detail": "Only reading."}))
    terminal = on_terminal(WAIT)
    server.wait_for(STATUS, 2)
    terminal.press_ctrl_c()
    _, shown = terminal.end()
    assert "could not be cancelled, and may still be running." in shown
    assert "Only reading." in " ".join(shown.split())


def test_an_interrupted_start_is_cancelled(server, on_terminal):
    gate = threading.Event()
    server.on(f"POST {START}", Reply(body=STARTED, gate=gate), STARTED)
    server.on(CANCEL, CANCELLED)
    terminal = on_terminal(RUN)
    server.wait_for(f"POST {START}")
    terminal.press_ctrl_c()
    code, _ = terminal.end()
    assert code == -signal.SIGINT
    assert server.calls() == [f"POST {START}"] * 2 + [CANCEL]
    assert len({request.headers["Idempotency-Key"] for request in server.received[:2]}) == 1


def test_an_interrupted_start_with_unknown_outcome_is_reported(server, on_terminal):
    server.on(f"POST {START}", Reply(body=STARTED, gate=threading.Event()), Reply(403, {}))
    terminal = on_terminal(RUN)
    server.wait_for(f"POST {START}")
    terminal.press_ctrl_c()
    _, shown = terminal.end()
    assert "Interrupted while starting the execution; it may be running." in shown


def test_handlers_of_the_caller_are_left_alone(server, on_terminal):
    server.on(STATUS, status_of("RUNNING"))
    server.on(CANCEL, CANCELLED)
    handler = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    terminal = on_terminal(handler + WAIT)
    server.wait_for(STATUS, 2)
    terminal.process.send_signal(signal.SIGTERM)
    code, _ = terminal.end()
    assert code == 7
    assert server.calls().count(CANCEL) == 1


def test_waiting_works_in_a_thread(server, client):
    server.on(STATUS, DROP, status_of("FINISHED"))
    results = []
    thread = threading.Thread(target=lambda: results.append(client.wait_for_execution("rest__1")))
    thread.start()
    thread.join(120)
    assert results[0].status.short == "FINISHED"


def test_handlers_are_restored_after_the_wait(server, client):
    server.on(STATUS, status_of("FINISHED"))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    client.wait_for_execution("rest__1")
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_with_first_only_later_signals_are_ignored(number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with signals_as_interrupts(first_only=True):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        for later in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(later)
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_ignored_signals_stay_ignored():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for first_only in (False, True):
            with signals_as_interrupts(first_only=first_only):
                signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)
