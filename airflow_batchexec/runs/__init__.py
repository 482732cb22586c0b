"""Executions as Airflow runs: their ids, how they are started and ended, and how tasks see their own."""
