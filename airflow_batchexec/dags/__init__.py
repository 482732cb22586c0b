"""Execution DAGs and task groups, and their trigger form."""
