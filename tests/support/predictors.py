"""Predictors for tests: builds written to a temporary folder, started as real processes."""

from __future__ import annotations

import gc
import textwrap
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from airflow_batchexec.engine.config.instances import Instance
from airflow_batchexec.engine.machine.files import private_folder
from airflow_batchexec.engine.machine.pods import Machine
from airflow_batchexec.engine.machine.resources import MachineResources
from airflow_batchexec.engine.predictor.process import Predictor
from airflow_batchexec.engine.predictor.shared_child import SharedChild
from airflow_batchexec.engine.predictor.spec import PredictorSpec
from airflow_batchexec.engine.standalone.file_types import FileType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_batchexec.engine.predictor.process import Prediction

MIB = 1024**2
ROOMY = Instance("roomy", 2, 2048 * MIB)


def write_build(folder: Path, source: str, **files: str) -> Path:
    """Write a build with ``model.py`` and further modules by name; return its folder."""
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text('entrypoint = "model:predict"\n')
    for name, text in {"model": source, **files}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return folder


def wait_until(condition: Callable[[], object], *, seconds: float = 120.0) -> None:
    """Wait until the condition holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds} s"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether the process is running; a zombie is not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if a child process is still running, or a file descriptor was not closed."""
    me = psutil.Process()
    gc.collect()
    # Exclude existing objects from the second collection, to speed it up.
    gc.freeze()
    children, before = set(me.children(recursive=True)), _open_descriptors()
    yield
    gc.collect()
    # Fewer are fine: leftovers of other tests may have gone.
    assert set(me.children(recursive=True)) <= children
    # A thread that closes a connection may need a moment longer than the test.
    deadline = time.monotonic() + 10.0
    while len(after := _open_descriptors()) > len(before) and time.monotonic() < deadline:
        time.sleep(0.01)
    new = {number: target for number, target in after.items() if before.get(number) != target}
    assert len(after) <= len(before), f"file descriptors were not closed: {new}"


def _open_descriptors() -> dict[str, str]:
    """What each file descriptor of this process refers to."""
    descriptors = {}
    for path in Path("/proc/self/fd").iterdir():
        # The descriptor of the listing itself is closed by now, and others may be.
        with suppress(FileNotFoundError):
            descriptors[path.name] = str(path.readlink())
    return descriptors


class PredictorStarter:
    """Starts predictors and writes inputs below a temporary folder.

    Args:
        folder: The temporary folder.
        shared: Whether the predictors are pods that could be shared; each is used once, and ends when it is closed.

    Attributes:
        printed: What the predictors have printed, as (stream, line).
        printed_for: The file that each of these lines was printed for.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self.folder = folder
        self.shared = shared
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
    ) -> PredictorSpec:
        """A spec for a build with this source."""
        self._builds += 1
        return PredictorSpec(
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

    def predictor(self, spec: PredictorSpec) -> Predictor:
        """A predictor that has not been started."""

        def on_line(stream: str, line: str) -> None:
            self.printed.append((stream, line))
            self.printed_for.append(predictor.file)

        child = None
        if self.shared:
            machine = Machine(
                folder=private_folder(self.folder), resources=MachineResources(cpus=64, memory_bytes=2**40)
            )
            pod = machine.claim_new(f"pod-{self._builds}", spec.instance)
            assert pod is not None
            spec = replace(spec, scratch=pod.folder.scratch)
            child = SharedChild(spec=spec, name="pod-0", pod=pod, idle_seconds=0)
        predictor = Predictor(spec=spec, name="pod-0", on_line=on_line, child=child)
        return predictor

    @contextmanager
    def started(self, source: str, **options: object) -> Iterator[Predictor]:
        """A predictor that has loaded a build with this source."""
        with self.predictor(self.spec(source, **options)) as predictor:  # type: ignore[arg-type]  # options of spec()
            predictor.start()
            yield predictor

    def csv(self, text: str = "a\n1\n2\n", name: str = "in.csv") -> Path:
        """Write an input file."""
        path = self.folder / name
        path.write_text(text)
        return path

    def predict(
        self,
        predictor: Predictor,
        text: str = "a\n1\n2\n",
        *,
        deadline: float | None = None,
        **options: object,
    ) -> Prediction:
        """Send a CSV file with this text through a predictor; the result is in :attr:`result`."""
        arguments = {
            "input_path": self.csv(text),
            "input_name": "in.csv",
            "input_type": FileType.CSV,
            "output_path": self.folder / "out.csv",
            "output_type": FileType.CSV,
            **options,
        }
        predictor.send(**arguments)  # type: ignore[arg-type]  # options of Predictor.send()
        return predictor.receive(deadline=deadline)

    @property
    def result(self) -> str:
        """The text of the last result."""
        return (self.folder / "out.csv").read_text()

    def lines(self, stream: str) -> list[str]:
        """The lines printed to one stream."""
        return [line for name, line in self.printed if name == stream]
