"""The engine: everything an execution does, knowing nothing of Airflow."""
