"""How long the examples of a property may take: as long as they do."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# By default, an example that takes 200 ms is a failure, which on a busy machine says nothing of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
