"""``s3://``: S3 and servers that speak its protocol."""
