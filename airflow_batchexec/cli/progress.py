"""What an execution looks like on a terminal: a progress bar while it runs, a few lines when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from airflow_batchexec.cli.display import print_facts, styled_status
from airflow_batchexec.client.progress import bar
from airflow_batchexec.engine.execution.ledger import FileStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.execution.lifecycle import Prepared
    from airflow_batchexec.engine.execution.manifest import ManifestHeader

__all__ = ["ProgressView", "print_summary"]


class ProgressView:
    """The bar, on standard error: standard output is for the result alone. Draws nothing where that is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = bar("Planning", wanted=self._console.is_terminal, console=self._console, with_rows=True)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def planned(self, prepared: Prepared) -> None:
        """Say what is about to be done."""
        spec = prepared.spec
        self._bar.show(f"{spec.build.model_id} {spec.build.build_id}", 0, spec.total_files)
        for file in prepared.plan.skipped:
            self._console.print(
                f"[yellow]skipped[/] {escape(file.file)}: {escape(file.reason)}",
                highlight=False,
                soft_wrap=True,
            )

    def recorded(self, record: FileRecord) -> None:
        """A file has started or ended."""
        if record.status is FileStatus.FINISHED and record.output is not None:
            self._bar.advance(record.output.rows)
        elif record.status is not FileStatus.STARTED:
            self._console.print(
                f"[red]{record.status.value.lower()}[/] {escape(_named(record))}",
                highlight=False,
                soft_wrap=True,
            )
            if record.traceback:
                self._console.print(
                    escape(record.traceback.rstrip()), highlight=False, style="dim", soft_wrap=True
                )

    def printed(self, pod: str, _stream: str, line: str) -> None:
        """A model printed something."""
        self._console.print(f"[dim]{escape(pod)}[/] {escape(line)}", highlight=False, soft_wrap=True)


def _named(record: FileRecord) -> str:
    """The reason of a failure with the file's name before it, once."""
    return f"{record.file}: {record.reason.removeprefix(f'{record.file}: ')}"


def print_summary(manifest: ManifestHeader) -> None:
    """The execution's account on standard output, a line for each value; paths are never broken over two lines."""
    print_facts(_summary(manifest))


def _summary(manifest: ManifestHeader) -> Iterator[tuple[str, str]]:
    """Labels and values, the values as rich's markup."""
    yield "Status", styled_status(manifest.status.value)
    if manifest.reason:
        yield "Reason", escape(manifest.reason)
    yield "Execution", escape(manifest.execution_id)
    yield "Build", escape(f"{manifest.model_id} {manifest.build_id}")
    others = (
        (manifest.failed_files, "failed"),
        (manifest.not_started_files, "not started"),
        (manifest.skipped_files, "skipped"),
    )
    counts = [f"{manifest.finished_files:,} of {manifest.total_files:,} finished"]
    counts += [f"{count:,} {word}" for count, word in others if count]
    yield "Files", ", ".join(counts)
    yield "Rows", f"{manifest.rows:,}"
    yield "Seconds", f"{manifest.seconds:.1f}"
    yield "Results", escape(manifest.destination)
    yield "Manifest", escape(manifest.manifest)
