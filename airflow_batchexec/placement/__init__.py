"""Which machines Airflow's executors run the tasks on."""
