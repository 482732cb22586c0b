"""Operators: what an execution's tasks do."""
