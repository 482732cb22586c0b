"""Execution DAGs and task groups, and the form that starts them."""
