"""``gs://``: Google Cloud Storage."""
