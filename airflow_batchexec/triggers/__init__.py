"""Triggers: what waits for executions without a worker."""
