"""What every test may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from s3_server import start_s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3_server import S3Server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for the whole run."""
    with start_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
