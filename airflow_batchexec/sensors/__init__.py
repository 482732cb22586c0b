"""Sensors: what waits for executions."""
