"""Hypothesis profiles (the same examples in every run, or a search for new ones), and options of Airflow."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# By default, an example that takes over 200 ms fails, which on a busy machine is unrelated to the tested code.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A change is only ever tested against the same examples, so it cannot fail for a fault that was there before.
settings.register_profile("repeatable", _PATIENT, derandomize=True, database=None)
settings.register_profile("search", _PATIENT, derandomize=False, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("BATCHEXEC_TEST_EXAMPLES", "repeatable"))


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch):
    """Sets options of Airflow's configuration, in the section ``[batchexec]`` if none is named."""

    def configure(section: str = "BATCHEXEC", /, **options: object) -> None:
        for option, value in options.items():
            monkeypatch.setenv(f"AIRFLOW__{section}__{option.upper()}", str(value))

    return configure
