"""How the engine's errors end a task: what cannot succeed is not tried again."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_batchexec import exceptions
from airflow_batchexec.exceptions import BatchExecError, PredictError, ResultError
from airflow_batchexec.runs.task_errors import as_task_failure, task_failure

_ERRORS = [getattr(exceptions, name) for name in exceptions.__all__]


@pytest.mark.parametrize("kind", _ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_is_retried_if_and_only_if_a_retry_can_help(kind: type[BatchExecError]):
    failure = task_failure(kind("a.csv: it went wrong."))

    assert isinstance(failure, AirflowException)
    assert isinstance(failure, AirflowFailException) is not kind.retryable
    assert str(failure) == "a.csv: it went wrong."


@pytest.mark.parametrize(
    ("kind", "failure"), [(PredictError, AirflowException), (ResultError, AirflowFailException)]
)
def test_the_airflow_exception_keeps_its_cause(kind: type[BatchExecError], failure: type[Exception]):
    error = kind("a.csv: it went wrong.")

    with pytest.raises(failure) as caught, as_task_failure():
        raise error

    assert caught.value.__cause__ is error


def test_other_errors_pass_through():
    with pytest.raises(ZeroDivisionError), as_task_failure():
        _ = 1 / 0
