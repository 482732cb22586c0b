from __future__ import annotations

import subprocess
import sys

import pytest

from airflow_batchexec.engine.locations import Location, Scheme
from airflow_batchexec.engine.storage import LocalStorage, open_storage
from airflow_batchexec.engine.storage.s3 import S3Access, S3Storage
from airflow_batchexec.exceptions import ConfigurationError


def test_each_scheme_opens_its_storage():
    assert isinstance(open_storage(Scheme.FILE), LocalStorage)
    assert isinstance(open_storage(Location.parse("file:///data")), LocalStorage)
    assert isinstance(open_storage(Location.parse("s3://b/in"), s3=S3Access("key", "secret")), S3Storage)
    assert isinstance(open_storage(Scheme.S3), S3Storage)


def test_a_scheme_that_is_not_supported_is_named():
    for place in (Scheme.GS, Location.parse("gs://b/in")):
        with pytest.raises(ConfigurationError, match="gs:// is not supported by this version"):
            open_storage(place)


def test_opening_the_disk_does_not_import_boto3():
    code = (
        "import sys; from airflow_batchexec.engine.locations import Scheme;"
        "from airflow_batchexec.engine.storage import open_storage; open_storage(Scheme.FILE);"
        "sys.exit(bool({'boto3', 'botocore', 'pandas', 'pyarrow', 'airflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
