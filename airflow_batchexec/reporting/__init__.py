"""Reporting to the rest of Airflow: links, asset events, lineage and run notes."""
