"""The demo: a year of flights through a real model in a real Airflow."""
