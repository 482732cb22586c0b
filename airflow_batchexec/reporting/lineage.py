"""Lineage for OpenLineage: the data that an execution read and wrote, the amounts, and the build.

Airflow's OpenLineage provider calls a task's operator when the task has ended. OpenLineage is imported only then, so
that it need not be installed. Datasets are named by https://openlineage.io/docs/spec/naming: ``s3://<bucket>`` or
``gs://<bucket>`` and the key; ``file`` and the path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.execution.audit import Audit
    from airflow_batchexec.engine.execution.ledger import FileRecord, StoredFile
    from airflow_batchexec.engine.execution.spec import ExecutionSpec

__all__ = ["Lineage", "facets_of"]

_MAX_FILES = 100
"""The maximum number of files of a task to report individually; beyond it, folders with totals are reported."""


@dataclass(slots=True)
class _Amount:
    """An amount of data read or written."""

    rows: int = 0
    size_bytes: int = 0
    files: int = 0

    def add(self, stored: StoredFile) -> None:
        self.rows += stored.rows
        self.size_bytes += stored.size_bytes
        self.files += 1


class Lineage:
    """The data that one task has read and written: its finished files, even if others failed.

    Args:
        spec: The execution.
        max_files: The maximum number of files to report individually; beyond it, folders are reported.
    """

    def __init__(self, spec: ExecutionSpec, *, max_files: int = _MAX_FILES) -> None:
        self._spec = spec
        self._max_files = max_files
        self._files: list[tuple[StoredFile, StoredFile]] = []
        self._read = _Amount()
        self._written = _Amount()

    @classmethod
    def of_execution(cls, spec: ExecutionSpec, audit: Audit) -> Lineage:
        """The lineage of a whole execution, at the level of folders."""
        lineage = cls(spec, max_files=0)
        lineage._read = _Amount(audit.rows_in, audit.bytes_in, audit.finished_files)
        lineage._written = _Amount(audit.rows_out, audit.bytes_out, audit.finished_files)
        return lineage

    def add(self, record: FileRecord) -> None:
        """Add a file; files without a result are ignored."""
        if record.input is None or record.output is None:
            return
        self._read.add(record.input)
        self._written.add(record.output)
        if len(self._files) < self._max_files:
            self._files.append((record.input, record.output))

    def facets(self) -> OperatorLineage[Any, Any]:
        """Inputs and outputs with their statistics; the build is one of the inputs."""
        from airflow.providers.openlineage.extractors import OperatorLineage  # noqa: PLC0415  need not be installed

        from airflow_batchexec.engine.config.locations import Location  # noqa: PLC0415  not for parsing

        if not self._written.files:
            return OperatorLineage(inputs=[self._model()])
        if self._written.files > self._max_files:
            inputs = [_input(self._spec.root, self._read)]
            outputs = [_output(self._spec.destination, self._written)]
        else:
            inputs, outputs = [], []
            for read, written in self._files:
                inputs.append(_input(Location.parse(read.uri), _amount(read)))
                outputs.append(_output(Location.parse(written.uri), _amount(written)))
        return OperatorLineage(inputs=[*inputs, self._model()], outputs=outputs)

    def _model(self) -> InputDataset:
        from openlineage.client.event_v2 import InputDataset  # noqa: PLC0415  need not be installed
        from openlineage.client.facet_v2 import (  # noqa: PLC0415  as above
            dataset_type_dataset,
            dataset_version_dataset,
        )

        build = self._spec.build
        return InputDataset(
            *_name(build.location),
            facets={
                "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet("MODEL"),
                "version": dataset_version_dataset.DatasetVersionDatasetFacet(build.build_id),
            },
        )


def facets_of(lineage: Lineage | None) -> OperatorLineage[Any, Any]:
    """The facets for the OpenLineage provider; empty if the task had not reached any file."""
    from airflow.providers.openlineage.extractors import OperatorLineage  # noqa: PLC0415  need not be installed

    return OperatorLineage() if lineage is None else lineage.facets()


def _amount(stored: StoredFile) -> _Amount:
    amount = _Amount()
    amount.add(stored)
    return amount


def _input(location: Location, amount: _Amount) -> InputDataset:
    from openlineage.client.event_v2 import InputDataset  # noqa: PLC0415  need not be installed
    from openlineage.client.facet_v2 import input_statistics_input_dataset  # noqa: PLC0415  as above

    statistics = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
        rowCount=amount.rows, size=amount.size_bytes, fileCount=amount.files
    )
    return InputDataset(*_name(location), inputFacets={"inputStatistics": statistics})


def _output(location: Location, amount: _Amount) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset  # noqa: PLC0415  need not be installed
    from openlineage.client.facet_v2 import output_statistics_output_dataset  # noqa: PLC0415  as above

    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=amount.rows, size=amount.size_bytes, fileCount=amount.files
    )
    return OutputDataset(*_name(location), outputFacets={"outputStatistics": statistics})


def _name(location: Location) -> tuple[str, str]:
    """A dataset's namespace and name."""
    from airflow_batchexec.engine.config.locations import Scheme  # noqa: PLC0415  not for parsing

    if location.scheme is Scheme.FILE:
        return "file", location.key
    return f"{location.scheme.value}://{location.bucket}", location.key or "/"
