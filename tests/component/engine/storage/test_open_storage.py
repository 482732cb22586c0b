from __future__ import annotations

import subprocess
import sys

import pytest

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage import open_storage
from airflow_batchexec.engine.storage.gcs.access import GcsAccess
from airflow_batchexec.engine.storage.gcs.storage import GcsStorage
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.engine.storage.s3.session import S3Access
from airflow_batchexec.engine.storage.s3.storage import S3Storage


def test_each_scheme_opens_its_storage():
    assert isinstance(open_storage(Location.parse("file:///data")), LocalStorage)
    assert isinstance(open_storage(Location.parse("s3://b/in"), s3=S3Access("key", "secret")), S3Storage)
    assert isinstance(open_storage(Location.parse("s3://b/in")), S3Storage)
    assert isinstance(open_storage(Location.parse("gs://b/in"), gcs=GcsAccess()), GcsStorage)
    assert isinstance(open_storage(Location.parse("gs://b/in")), GcsStorage)


@pytest.mark.parametrize(
    ("uri", "not_imported"),
    [
        ("file:///data", {"boto3", "botocore", "google.auth", "requests"}),
        ("s3://b/in", {"google.auth", "google.cloud.storage"}),
        ("gs://b/in", {"boto3", "botocore"}),
    ],
)
def test_opening_a_storage_does_not_import_libraries_of_others(uri, not_imported):
    code = (
        "import sys; from airflow_batchexec.engine.config.locations import Location;"
        "from airflow_batchexec.engine.storage import open_storage;"
        "from airflow_batchexec.engine.storage.gcs.access import GcsAccess;"
        f"open_storage(Location.parse({uri!r}), gcs=GcsAccess());"
        f"sys.exit(', '.join({not_imported | {'pandas', 'pyarrow', 'airflow'}} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.stderr.strip(), done.returncode) == ("", 0)


def test_missing_google_library_is_named():
    code = (
        "import sys; sys.modules['google.cloud.storage'] = None\n"
        "from airflow_batchexec.engine.config.locations import Location\n"
        "from airflow_batchexec.engine.storage import open_storage\n"
        "from airflow_batchexec.exceptions import ConfigurationError\n"
        "try: open_storage(Location.parse('gs://b/in'))\n"
        "except ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 'pip install "airflow-provider-batchexec[gcs]"' in done.stdout
