"""Placement: the machines that Airflow's executors run an execution's tasks on."""
