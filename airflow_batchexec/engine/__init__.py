"""The engine: everything an execution does, independent of Airflow."""
