"""Pods for tests: builds written into a temporary folder, started as the real processes that they are."""

from __future__ import annotations

import gc
import textwrap
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil

from airflow_batchexec.engine.config.instances import Instance
from airflow_batchexec.engine.predictor.process import Pod
from airflow_batchexec.engine.predictor.spec import PodSpec
from airflow_batchexec.engine.standalone.file_types import FileType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_batchexec.engine.predictor.process import Answer

MIB = 1024**2
ROOMY = Instance("roomy", 2, 2048 * MIB)


def write_build(folder: Path, source: str, **files: str) -> Path:
    """A build's folder with ``model.py``, and further modules by name."""
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text('entrypoint = "model:predict"\n')
    for name, text in {"model": source, **files}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return folder


def wait_until(condition: Callable[[], object], *, seconds: float = 120.0) -> None:
    """Return when the condition holds; fail where it does not come to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s it still does not hold"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether the process lives; one that has ended and waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail where a child process lives on, or a file descriptor was not closed."""
    me = psutil.Process()
    gc.collect()
    # What is there need not be looked through again.
    gc.freeze()
    children, fds = set(me.children(recursive=True)), me.num_fds()
    yield
    gc.collect()
    # What other tests have left may be gone meanwhile.
    assert set(me.children(recursive=True)) <= children
    assert me.num_fds() <= fds


class PodStarter:
    """Starts pods and writes inputs below one temporary folder.

    Attributes:
        printed: What the pods have printed, as (stream, line).
        printed_for: The file that each of these lines was printed for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.printed: list[tuple[str, str]] = []
        self.printed_for: list[str] = []
        self._builds = 0

    def spec(
        self,
        source: str,
        *,
        entrypoint: str = "model:predict",
        instance: Instance = ROOMY,
        interpreter: str | None = None,
        requirements: tuple[str, ...] = (),
        threads: int = 1,
        parameters: dict[str, str] | None = None,
        load_timeout_seconds: float = 120.0,
    ) -> PodSpec:
        """What a pod of a module with this source is made of."""
        self._builds += 1
        return PodSpec(
            kind="python",
            folder=write_build(self.folder / f"build-{self._builds}", source),
            entrypoint=entrypoint,
            interpreter=interpreter,
            requirements=requirements,
            instance=instance,
            threads=threads,
            parameters=parameters or {},
            scratch=self.folder / f"scratch-{self._builds}",
            load_timeout_seconds=load_timeout_seconds,
        )

    def pod(self, spec: PodSpec) -> Pod:
        """A pod that has not been started."""

        def take(stream: str, line: str) -> None:
            self.printed.append((stream, line))
            self.printed_for.append(pod.file)

        pod = Pod(spec=spec, name="pod-0", on_line=take)
        return pod

    @contextmanager
    def started(self, source: str, **options: object) -> Iterator[Pod]:
        """A pod that has loaded a module with this source."""
        with self.pod(self.spec(source, **options)) as pod:  # type: ignore[arg-type]  # spec checks them
            pod.start()
            yield pod

    def csv(self, text: str = "a\n1\n2\n", name: str = "in.csv") -> Path:
        """An input file."""
        path = self.folder / name
        path.write_text(text)
        return path

    def predict(self, pod: Pod, text: str = "a\n1\n2\n", **options: object) -> Answer:
        """Send a CSV file with this text through a pod; the result is :attr:`result`."""
        arguments = {
            "input_path": self.csv(text),
            "input_name": "in.csv",
            "input_type": FileType.CSV,
            "output_path": self.folder / "out.csv",
            "output_type": FileType.CSV,
            **options,
        }
        return pod.predict(**arguments)  # type: ignore[arg-type]  # as above

    @property
    def result(self) -> str:
        """The last result's text."""
        return (self.folder / "out.csv").read_text()

    def lines(self, stream: str) -> list[str]:
        """What has been printed on one stream."""
        return [line for name, line in self.printed if name == stream]
