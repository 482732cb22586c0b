"""A Hypothesis profile without time limits."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# By default, an example that takes over 200 ms fails, which on a busy machine is unrelated to the tested code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
