"""``s3://``: S3 and compatible servers."""
