"""What the rest of Airflow is told: links, asset events, lineage, notes on runs."""
