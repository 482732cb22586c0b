"""Terminal output of a local execution: a progress bar while it runs, then a summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from airflow_batchexec.cli.display import print_facts, styled_status
from airflow_batchexec.client.progress import progress_bar
from airflow_batchexec.engine.execution.ledger import FileStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.execution.manifest import ManifestHeader
    from airflow_batchexec.engine.execution.preparation import Prepared

__all__ = ["ProgressView", "print_summary"]


class ProgressView:
    """The progress bar, on standard error because standard output holds only the result. Drawn only on a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = progress_bar(
            "Planning", enabled=self._console.is_terminal, console=self._console, with_rows=True
        )

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def planned(self, prepared: Prepared) -> None:
        """Show the planned execution and its skipped files."""
        spec = prepared.spec
        self._bar.show(f"{spec.build.model_id} {spec.build.build_id}", 0, spec.total_files)
        for file in prepared.plan.named_skipped:
            self._print_skipped(f"{file.file}: {file.reason}")
        if prepared.plan.unnamed_skipped:
            self._print_skipped(f"{prepared.plan.unnamed_skipped} more files; see {spec.folder.skipped.uri}")

    def _print_skipped(self, text: str) -> None:
        self._console.print(f"[yellow]skipped[/] {escape(text)}", highlight=False, soft_wrap=True)

    def recorded(self, record: FileRecord) -> None:
        """Show that a file started or ended."""
        if record.status is FileStatus.FINISHED and record.output is not None:
            self._bar.advance(record.output.rows)
        elif record.status is not FileStatus.STARTED:
            self._console.print(
                f"[red]{record.status.value.lower()}[/] {escape(_failure_text(record))}",
                highlight=False,
                soft_wrap=True,
            )
            if record.traceback:
                self._console.print(
                    escape(record.traceback.rstrip()), highlight=False, style="dim", soft_wrap=True
                )

    def printed(self, pod: str, _stream: str, line: str) -> None:
        """Show a line that the model printed."""
        self._console.print(f"[dim]{escape(pod)}[/] {escape(line)}", highlight=False, soft_wrap=True)


def _failure_text(record: FileRecord) -> str:
    """The reason for a failure, prefixed with the file name exactly once."""
    return f"{record.file}: {record.reason.removeprefix(f'{record.file}: ')}"


def print_summary(manifest: ManifestHeader) -> None:
    """Print the summary of an execution, one line per value, without wrapping paths."""
    print_facts(_summary(manifest))


def _summary(manifest: ManifestHeader) -> Iterator[tuple[str, str]]:
    """Labels and values; values are rich markup."""
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
