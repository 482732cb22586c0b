"""Triggers that wait for executions without a worker."""
