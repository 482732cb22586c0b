from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
from predictors import MIB, PredictorStarter, is_running, nothing_left_behind, wait_until

from airflow_batchexec.engine.config.instances import Instance
from airflow_batchexec.engine.predictor.child import DeadlineExceeded
from airflow_batchexec.engine.predictor.memory import MemoryWatch
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.exceptions import (
    DiskFullError,
    ExecutionCancelledError,
    InputFileError,
    ModelLoadError,
    PodDiedError,
    PodMemoryError,
    PredictError,
    ResultError,
    StorageError,
)

ECHO = "def predict(df):\n    return df\n"
# Holds the GIL while it sleeps: no Python code runs in the process, not even signal handlers.
HANG_IN_C = "ctypes.PyDLL(None).sleep(600)"


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    with nothing_left_behind():
        yield


@pytest.fixture
def starter(tmp_path):
    return PredictorStarter(tmp_path)


def soon(seconds=0.5):
    return time.monotonic() + seconds


# ---- entrypoints


@pytest.mark.parametrize(
    ("entrypoint", "source"),
    [
        (
            "model:Model",
            """
            class Model:
                def initialize_model(self):
                    self.factor = 10
                def predict(self, df):
                    return df * self.factor
            """,
        ),
        ("model:Model", "class Model:\n    def predict(self, df):\n        return df * 10\n"),
        ("model:predict", "def predict(df):\n    return df * 10\n"),
        ("model:predict", "predict = lambda df: df * 10\n"),
        (
            "model:instance",
            "class Model:\n    def predict(self, df):\n        return df * 10\ninstance = Model()\n",
        ),
        ("model:Outer.Inner", "class Outer:\n    class Inner:\n        predict = lambda self, df: df * 10\n"),
        ("model:Model.rate", "class Model:\n    @staticmethod\n    def rate(df):\n        return df * 10\n"),
    ],
    ids=["initialize_model", "class", "function", "lambda", "instance", "nested class", "static method"],
)
def test_every_kind_of_entrypoint_predicts(starter, entrypoint, source):
    with starter.started(source, entrypoint=entrypoint) as predictor:
        prediction = starter.predict(predictor)
    assert starter.result == "a\n10\n20\n"
    assert (prediction.rows_in, prediction.rows_out) == (2, 2)
    assert set(prediction.seconds) == {"read", "predict", "write"}
    assert prediction.peak_memory_bytes > 30 * MIB


def test_the_model_is_loaded_once_and_keeps_its_state_between_files(starter):
    source = """
    import pandas as pd
    print("loading")
    seen = []
    def predict(df):
        seen.append(len(df))
        return pd.DataFrame({"seen": [str(seen)]})
    """
    with starter.started(source) as predictor:
        starter.predict(predictor, "a\n1\n")
        starter.predict(predictor, "a\n1\n2\n")
    assert starter.result == 'seen\n"[1, 2]"\n'
    assert starter.lines("stdout") == ["loading"]


def test_a_file_with_only_a_header_is_predicted_as_an_empty_frame(starter):
    source = """
    def predict(df):
        assert len(df) == 0
        return df.assign(delay=[])
    """
    with starter.started(source) as predictor:
        prediction = starter.predict(predictor, "a,b\n")
    assert starter.result == "a,b,delay\n"
    assert (prediction.rows_in, prediction.rows_out) == (0, 0)


# ---- builds that fail to load


@pytest.mark.parametrize(
    ("source", "entrypoint", "message"),
    [
        ("import nowhere_to_be_found", "model:predict", "No module named 'nowhere_to_be_found'"),
        ("def predict(df)\n", "model:predict", r"SyntaxError: .*model\.py, line 1"),
        (ECHO, "model:Model", "module model has no attribute Model"),
        (ECHO, "elsewhere:predict", "No module named 'elsewhere'"),
        ("class Model: pass\n", "model:Model", "model:Model has no predict method"),
        ("Model = 3\n", "model:Model", "model:Model has no predict method"),
        (
            "class Model:\n    def __init__(self):\n        raise RuntimeError('no licence')\n",
            "model:Model",
            "RuntimeError: no licence",
        ),
        (
            "class Model:\n    def initialize_model(self):\n        open('weights.bin')\n    predict = print\n",
            "model:Model",
            r"FileNotFoundError: .*weights\.bin",
        ),
        ("import sys\nsys.exit(4)\n", "model:predict", "SystemExit: 4"),
    ],
    ids=[
        "missing module",
        "syntax error",
        "missing attribute",
        "missing entrypoint module",
        "no predict",
        "not a model",
        "constructor raises",
        "initialize_model raises",
        "sys.exit",
    ],
)
def test_a_build_that_fails_to_load_is_reported_with_the_reason(starter, source, entrypoint, message):
    with (
        pytest.raises(ModelLoadError, match=f"(?s)The build failed to load: .*{message}"),
        starter.started(source, entrypoint=entrypoint),
    ):
        pass


def test_the_traceback_of_a_failed_import_contains_only_the_models_frames(starter):
    with pytest.raises(ModelLoadError) as caught, starter.started("import nowhere_to_be_found\n"):
        pass
    lines = caught.value.details["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "model.py" in lines[1]
    assert lines[-1] == "ModuleNotFoundError: No module named 'nowhere_to_be_found'"
    assert not any("importlib" in line or "worker.py" in line for line in lines)


def test_a_missing_interpreter_is_reported(starter):
    with (
        pytest.raises(
            ModelLoadError, match="Cannot start the build's interpreter /nowhere/python: No such file"
        ),
        starter.started(ECHO, interpreter="/nowhere/python"),
    ):
        pass


def test_unmet_requirements_are_reported_before_anything_is_imported(starter):
    with (
        pytest.raises(
            ModelLoadError,
            match=r"does not meet the build's requirements: nowhere-to-be-found>=1, pandas<1 \(found ",
        ),
        starter.started("print('imported')", requirements=("nowhere-to-be-found>=1", "pandas<1", "pyarrow")),
    ):
        pass
    assert starter.printed == []


def test_a_predictor_that_dies_while_loading_is_reported(starter):
    with (
        pytest.raises(PodDiedError, match="pod-0 exited with status 5"),
        starter.started("import os\nos._exit(5)\n"),
    ):
        pass


@pytest.mark.parametrize("hang", ["import time\ntime.sleep(600)", f"import ctypes\n{HANG_IN_C}"])
def test_a_build_that_hangs_while_loading_is_terminated_at_the_load_timeout(starter, hang):
    with (
        pytest.raises(ModelLoadError, match=r"did not load within 0\.5 s"),
        starter.started(hang, load_timeout_seconds=0.5),
    ):
        pass


def test_the_callers_deadline_also_applies_to_loading(starter):
    with starter.predictor(starter.spec("import time\ntime.sleep(600)")) as predictor:
        with pytest.raises(DeadlineExceeded):
            predictor.start(deadline=soon())
        assert not predictor.alive


# ---- errors of one file


def test_a_predictor_stays_usable_after_predict_raised(starter):
    source = """
    def predict(df):
        if len(df) == 1:
            raise ValueError("one row is not enough")
        return df
    """
    with starter.started(source) as predictor:
        with pytest.raises(PredictError, match=r"^in\.csv: ValueError: one row is not enough\.$") as caught:
            starter.predict(predictor, "a\n1\n")
        assert predictor.alive
        assert starter.predict(predictor, "a\n1\n2\n").rows_out == 2
    details = caught.value.details
    assert details["file"] == "in.csv"
    assert 'raise ValueError("one row is not enough")' in details["traceback"]
    assert "worker.py" not in details["traceback"]


@pytest.mark.parametrize(
    ("result", "kind"),
    [("None", "NoneType"), ("'text'", "str"), ("{'a': 1}", "dict"), ("object()", "object"), ("3", "int")],
)
def test_a_result_of_an_unsupported_type_is_reported(starter, result, kind):
    with starter.started(f"def predict(df):\n    return {result}\n") as predictor:
        with pytest.raises(ResultError, match=rf"^in\.csv: .*\b{kind}\b"):
            starter.predict(predictor)
        assert predictor.alive


def test_an_invalid_input_is_reported_and_the_predictor_stays_usable(starter):
    with starter.started(ECHO) as predictor:
        with pytest.raises(InputFileError, match=r"^in\.csv: is not well-formed CSV"):
            starter.predict(predictor, "a\n1,2\n3,4,5\n")
        with pytest.raises(InputFileError, match=r"^in\.csv: is empty"):
            starter.predict(predictor, "")
        with pytest.raises(InputFileError, match=r"^in\.csv: is not a PARQUET file"):
            starter.predict(predictor, "a" * 100, input_type=FileType.PARQUET)
        starter.predict(predictor)


def test_sys_exit_in_predict_fails_only_that_file(starter):
    with starter.started(
        "import sys\ndef predict(df):\n    return df if len(df) == 2 else sys.exit('enough')\n"
    ) as predictor:
        with pytest.raises(PredictError, match=r"in\.csv: predict called sys\.exit\('enough'\)"):
            starter.predict(predictor, "a\n1\n")
        starter.predict(predictor, "a\n1\n2\n")


def test_errors_that_are_too_long_or_not_printable_are_made_safe_to_log(starter):
    source = """
    class Silent(Exception):
        def __str__(self):
            raise RuntimeError
    def predict(df):
        if len(df) == 1:
            raise Silent
        raise ValueError("name \\udcff " + "x" * 10_000_000)
    """
    with starter.started(source) as predictor:
        with pytest.raises(PredictError, match="Silent: "):
            starter.predict(predictor, "a\n1\n")
        with pytest.raises(PredictError) as caught:
            starter.predict(predictor)
    for text in (caught.value.message, caught.value.details["traceback"]):
        assert "characters omitted" in text
        assert len(text.encode()) < 50_000


def test_a_full_disk_is_reported_with_the_file(starter):
    with starter.started(ECHO) as predictor:
        with pytest.raises(DiskFullError, match=r"in\.csv: .*No space left on device"):
            starter.predict(predictor, output_path=Path("/dev/full"))
        starter.predict(predictor)


# ---- predictors that die, hang, or use too much memory


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("os._exit(3)", "exited with status 3"),
        ("os._exit(0)", "exited with status 0"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "was killed by SIGTERM"),
        ("ctypes.string_at(0)", "was killed by SIGSEGV"),
        ("os.abort()", "was killed by SIGABRT"),
    ],
)
def test_the_error_says_how_a_predictor_died(starter, end, message):
    source = f"import ctypes, os, signal\ndef predict(df):\n    {end}\n"
    with starter.started(source) as predictor:
        with pytest.raises(PodDiedError, match=f"The pod pod-0 {message}"):
            starter.predict(predictor)
        assert not predictor.alive
        with pytest.raises(PodDiedError, match=message):
            starter.predict(predictor)


@pytest.mark.parametrize(
    "hang",
    [
        "time.sleep(600)",
        "[None for _ in iter(int, 1)]",
        HANG_IN_C,
        f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {HANG_IN_C}",
    ],
    ids=["sleeps", "spins", "holds the GIL", "also ignores SIGTERM"],
)
def test_a_hang_is_terminated_at_the_deadline(starter, hang):
    source = f"import ctypes, signal, time\ndef predict(df):\n    {hang}\n"
    with starter.started(source) as predictor:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            starter.predict(predictor, deadline=soon())
        assert time.monotonic() - started < 120
        assert not predictor.alive


ALLOCATE_MEMORY = """
import os, subprocess, sys, time
ALLOCATE = '''
import time
kept = []
# Less than a GiB, however late the memory is checked.
for _ in range(80):
    kept.append(bytearray(b"x") * (8 << 20))
    time.sleep(0.01)
time.sleep(600)
'''
"""


@pytest.mark.parametrize(
    "body",
    [
        "exec(ALLOCATE)",
        "subprocess.run([sys.executable, '-c', ALLOCATE])",
        "subprocess.run([sys.executable, '-c', ALLOCATE], start_new_session=True)",
    ],
    ids=["itself", "in a child", "in a child in another session"],
)
def test_a_predictor_over_its_instances_memory_is_terminated(starter, body):
    small = Instance("pocket", 1, 300 * MIB)
    with starter.started(f"{ALLOCATE_MEMORY}\ndef predict(df):\n    {body}\n", instance=small) as predictor:
        with pytest.raises(PodMemoryError, match=r"pod-0 used 0\.\d+ GiB .* instance pocket .*0\.29 GiB"):
            starter.predict(predictor, deadline=soon(240))
        assert not predictor.alive


def test_a_build_larger_than_its_instance_is_refused_however_fast_it_loads(starter):
    with (
        pytest.raises(PodMemoryError, match=r"pod-0 used 0\.\d+ GiB .* instance pocket "),
        starter.started(ECHO, instance=Instance("pocket", 1, 40 * MIB)),
    ):
        pass


FORK_ON_REQUEST = """
import os, sys
sys.stdin.readline()
if os.fork() == 0:
    kept = bytearray(b"x") * (200 << 20)
    print("allocated", flush=True)
    sys.stdin.read()
else:
    os.wait()
"""


def test_the_first_child_of_a_process_counts_from_its_start():
    process = subprocess.Popen(
        [sys.executable, "-c", FORK_ON_REQUEST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        watch = MemoryWatch(pid=process.pid, limit_bytes=100 * MIB)
        assert watch.excess_bytes() == 0
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "allocated\n"
        assert watch.excess_bytes() > 200 * MIB
        process.stdin.close()


def test_memory_shared_by_forked_children_is_counted_once(starter, tmp_path, monkeypatch):
    seen, excess_bytes = tmp_path / "seen", MemoryWatch.excess_bytes

    def recording_excess_bytes(watch):
        excess = excess_bytes(watch)
        if len(watch._tree) > 6:
            seen.touch()
        return excess

    monkeypatch.setattr(MemoryWatch, "excess_bytes", recording_excess_bytes)
    source = f"""
    import os, time
    shared = bytearray(b"x") * (120 << 20)
    def predict(df):
        children = []
        for _ in range(6):
            pid = os.fork()
            if pid == 0:
                while not os.path.exists({str(seen)!r}):
                    time.sleep(0.01)
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
        return df
    """
    with starter.started(source, instance=Instance("medium", 1, 600 * MIB)) as predictor:
        starter.predict(predictor)


def test_a_failed_allocation_terminates_the_predictor(starter):
    with starter.started("def predict(df):\n    return bytearray(1 << 60)\n") as predictor:
        with pytest.raises(PodMemoryError, match=r"in\.csv: predict ran out of memory"):
            starter.predict(predictor)
        assert not predictor.alive


# ---- output


def test_output_is_forwarded_line_by_line(starter):
    source = """
    import os, sys
    def predict(df):
        print("to stdout")
        print("to stderr", file=sys.stderr)
        os.write(1, b"from C\\r\\nno newline at the end")
        return df
    """
    with starter.started(source) as predictor:
        starter.predict(predictor)
    assert starter.lines("stdout") == ["to stdout", "from C", "no newline at the end"]
    assert starter.lines("stderr") == ["to stderr"]


def test_lines_are_attributed_to_the_right_one_of_many_quick_files(starter):
    source = """
    import ctypes, os, sys
    libc = ctypes.CDLL(None)
    print("loading")
    libc.puts(b"loading in C")
    def predict(df):
        name = df["a"].iloc[0]
        print(f"{name} stdout")
        print(f"{name} stderr", file=sys.stderr)
        libc.puts(f"{name} from C".encode())
        os.write(2, f"{name} without a line end".encode())
        if name.endswith("7"):
            raise ValueError
        return df
    """
    names = [f"f{number:03d}" for number in range(200)]
    with starter.started(source) as predictor:
        for name in names:
            with suppress(PredictError):
                starter.predict(predictor, f"a\n{name}\n", input_name=name)
            # All output has been forwarded when predict returns.
            assert starter.printed_for.count(name) == 4
    lines = list(zip(starter.printed_for, starter.printed, strict=True))
    assert sorted(line for file, (_, line) in lines if not file) == ["loading", "loading in C"]
    for name in names:
        assert sorted(line for file, line in lines if file == name) == [
            ("stderr", f"{name} stderr"),
            ("stderr", f"{name} without a line end"),
            ("stdout", f"{name} from C"),
            ("stdout", f"{name} stdout"),
        ]


def test_output_before_a_crash_is_attributed_to_the_last_file(starter):
    source = """
    import os
    def predict(df):
        os.write(1, b"so long\\n" * 2000)
        os._exit(3)
    """
    with starter.started(source) as predictor:
        with pytest.raises(PodDiedError):
            starter.predict(predictor)
        assert starter.lines("stdout") == ["so long"] * 2000
    assert set(starter.printed_for) == {"in.csv"}


def test_a_hundred_megabytes_of_output_are_drained_and_truncated(starter):
    source = """
    import os
    def predict(df):
        block = b"a line of output\\n" * 60_000
        for _ in range(100):
            unwritten = memoryview(block)
            while unwritten:
                unwritten = unwritten[os.write(1, unwritten):]
        return df
    """
    with starter.started(source) as predictor:
        started = time.monotonic()
        starter.predict(predictor)
        assert time.monotonic() - started < 120
    *lines, last = starter.lines("stdout")
    assert len(lines) == 10_000
    assert set(lines) == {"a line of output"}
    assert last == f"… {6_000_000 * 17 - 10_000 * 17:,} more bytes of output were omitted from the log"


def test_closed_and_replaced_streams_harm_neither_the_file_nor_the_predictor(starter):
    source = """
    import os, sys
    class Odd:
        def write(self, text):
            return len(text)
        def flush(self):
            raise TypeError
    def predict(df):
        step = len(df)
        if step == 1:
            os.close(1); os.close(2)
        if step == 2:
            os.write(1, b"still heard\\n")
            sys.stdout.close()
        if step == 3:
            sys.stdout = sys.stderr = Odd()
            print("unheard")
        if step == 4:
            sys.stdout = sys.stderr = None
        return df
    """
    with starter.started(source) as predictor:
        for rows in range(1, 6):
            assert starter.predict(predictor, "a\n" + "1\n" * rows).rows_out == rows
            assert starter.result == "a\n" + "1\n" * rows
    assert starter.printed == [("stdout", "still heard")]


# ---- environment and working folder


def test_the_environment_consists_of_the_parameters_and_the_predictors_own_variables(starter, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("PYTHONPATH", "/canary")
    source = """
    import json, os, pandas as pd
    at_start = dict(os.environ)
    def predict(df):
        return pd.DataFrame({"environment": [json.dumps(at_start)]})
    """
    with starter.started(source, parameters={"THRESHOLD": "a=b", "HOME": "/mine"}, threads=2) as predictor:
        starter.predict(predictor, output_path=starter.folder / "out.parquet", output_type=FileType.PARQUET)
    environment = json.loads(pd.read_parquet(starter.folder / "out.parquet")["environment"][0])
    scratch = predictor.spec.scratch
    caps = {name: value for name, value in environment.items() if "THREADS" in name or "LOKY" in name}
    assert set(caps.values()) == {"2"}
    assert {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"} <= set(caps)
    assert {name: value for name, value in environment.items() if name not in caps} == {
        "THRESHOLD": "a=b",
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(scratch),
        "TMPDIR": str(scratch / "tmp"),
        "LANG": "C.UTF-8",
        "CUDA_VISIBLE_DEVICES": "",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def test_the_thread_cap_reaches_arrow(starter):
    source = """
    import pandas as pd, pyarrow as pa
    def predict(df):
        return pd.DataFrame({"cpu": [pa.cpu_count()], "io": [pa.io_thread_count()]})
    """
    with starter.started(source, threads=3) as predictor:
        starter.predict(predictor)
    assert starter.result == "cpu,io\n3,3\n"


def test_a_model_reads_relative_paths_and_cannot_write_into_the_build(starter):
    source = """
    from pathlib import Path
    def predict(df):
        for path in ("new.txt", "data/new.txt"):
            Path(path).write_text("written")
        return df.assign(rate=float(Path("data/rate.txt").read_text()))
    """
    spec = starter.spec(source)
    (spec.folder / "data").mkdir()
    (spec.folder / "data/rate.txt").write_text("0.5")
    before = sorted(spec.folder.rglob("*"))
    with starter.predictor(spec) as predictor:
        predictor.start()
        starter.predict(predictor)
    assert starter.result == "a,rate\n1,0.5\n2,0.5\n"
    assert sorted(spec.folder.rglob("*")) == before


def test_the_scratch_folder_is_removed_with_the_predictor(starter):
    with starter.started("import tempfile\ntempfile.mkstemp()\n" + ECHO) as predictor:
        assert predictor.spec.scratch.is_dir()
    assert not predictor.spec.scratch.exists()


def test_a_scratch_folder_that_cannot_be_created_is_reported(starter):
    spec = starter.spec(ECHO)
    spec.scratch.write_text("a file")
    with (
        pytest.raises(StorageError, match=f"Cannot prepare the pod in {spec.scratch}: "),
        starter.predictor(spec) as predictor,
    ):
        predictor.start()


@pytest.fixture
def other_python(tmp_path):
    """A virtual environment without this project; a ``.pth`` file adds this environment's libraries."""

    def make(*, with_libraries=True):
        folder = tmp_path / "other"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        if with_libraries:
            (site / "shared.pth").write_text(sysconfig.get_path("purelib"))
        return folder

    return make


def test_a_build_runs_in_its_own_interpreter(starter, other_python):
    folder = other_python()
    source = """
    import sys, pandas as pd
    def predict(df):
        return pd.DataFrame({"prefix": [sys.prefix], "ours": ["airflow_batchexec" in sys.modules]})
    """
    with starter.started(source, interpreter=str(folder / "bin/python")) as predictor:
        starter.predict(predictor)
    assert starter.result == f"prefix,ours\n{folder},False\n"


def test_an_interpreter_without_pandas_is_reported(starter, other_python):
    python = other_python(with_libraries=False) / "bin/python"
    with (
        pytest.raises(ModelLoadError, match=f"{python} cannot import pandas, which every build needs"),
        starter.started(ECHO, interpreter=str(python)),
    ):
        pass


# ---- nothing outlives a predictor

STARTS_CHILDREN = """
import ctypes, os, pathlib, subprocess, sys
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
def children():
    inside = subprocess.Popen(SLEEP)
    outside = subprocess.Popen(SLEEP, start_new_session=True)
    # A daemon: in its own session, and orphaned.
    daemon = subprocess.run(
        [sys.executable, "-c", f"import subprocess; print(subprocess.Popen({SLEEP}, start_new_session=True, "
         "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"],
        capture_output=True, text=True)
    pids = f"{os.getpid()} {inside.pid} {outside.pid} {int(daemon.stdout)}"
    pathlib.Path(os.environ["PIDS"]).write_text(pids + " end")
"""


def pids_in(path: Path) -> list[int]:
    wait_until(lambda: path.exists() and path.read_text().endswith(" end"))
    return [int(pid) for pid in path.read_text().split()[:-1]]


@pytest.mark.parametrize("end", ["close", "end", "death", "kill", "deadline"])
def test_no_process_started_by_a_model_outlives_its_predictor(starter, tmp_path, end):
    ending = {
        "death": "os._exit(1)",
        "kill": "os.kill(os.getpid(), 9)",
        "deadline": HANG_IN_C,
    }.get(end, "return df")
    # The deadline may pass before predict does anything, so in this case the model starts them while loading.
    on_load, on_predict = ("children()", "") if end == "deadline" else ("", "children()")
    source = f"{STARTS_CHILDREN}\n{on_load}\ndef predict(df):\n    {on_predict}\n    {ending}\n"
    path = tmp_path / "pids"
    with starter.started(source, parameters={"PIDS": str(path)}) as predictor:
        if end in {"close", "end"}:
            starter.predict(predictor)
            pids = pids_in(path)
            assert all(map(is_running, pids))
            if end == "end":
                predictor.end()
                assert not any(map(is_running, pids))
        else:
            with pytest.raises((PodDiedError, DeadlineExceeded)):
                starter.predict(predictor, deadline=soon() if end == "deadline" else None)
            assert not any(map(is_running, pids_in(path)))
    assert not any(map(is_running, pids_in(path)))


PARENT = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from predictors import PredictorStarter
starter = PredictorStarter(Path(sys.argv[2]))
source = Path(sys.argv[3]).read_text()
with starter.started(source, parameters={"PIDS": sys.argv[4]}) as predictor:
    starter.predict(predictor)
    threading.Event().wait()
"""


@pytest.mark.parametrize("busy", ["return df", "while True: pass", HANG_IN_C], ids=["idle", "spins", "in C"])
def test_a_predictor_and_its_children_end_when_their_parent_is_killed(tmp_path, busy):
    model, path, folder = tmp_path / "source.py", tmp_path / "pids", tmp_path / "parent"
    model.write_text(f"{STARTS_CHILDREN}\ndef predict(df):\n    children()\n    {busy}\n")
    folder.mkdir()
    tests = str(Path(__file__).parents[3] / "support")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tests, str(folder), str(model), str(path)])
    try:
        pids = pids_in(path)
        pids += [process.pid for process in psutil.Process(parent.pid).children(recursive=True)]
        assert all(map(is_running, pids))
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(map(is_running, pids)))


def test_a_predictor_can_be_ended_from_another_thread(starter):
    source = "import time\ndef predict(df):\n    print('predicting')\n    time.sleep(600)\n"
    with starter.started(source) as predictor:

        def cancel():
            wait_until(lambda: starter.printed)
            predictor.end(ExecutionCancelledError("Cancelled with Ctrl-C."))

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(ExecutionCancelledError, match=r"Ctrl-C"):
            starter.predict(predictor)
        thread.join()
        assert not predictor.alive


def test_a_predictor_that_was_ended_before_its_start_does_not_start(starter):
    with starter.predictor(starter.spec(ECHO)) as predictor:
        predictor.end(ExecutionCancelledError("Too late."))
        with pytest.raises(ExecutionCancelledError, match=r"Too late"):
            predictor.start()


def test_a_predictor_whose_supervisor_is_killed_dies_with_it(starter, tmp_path):
    path = tmp_path / "pids"
    source = f"{STARTS_CHILDREN}\ndef predict(df):\n    children()\n    {HANG_IN_C}\n"
    with starter.started(source, parameters={"PIDS": str(path)}) as predictor:

        def kill():
            worker = psutil.Process(pids_in(path)[0])
            os.kill(worker.ppid(), signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(PodDiedError, match="was killed by SIGKILL"):
            starter.predict(predictor)
        thread.join()
    worker, inside, outside, daemon = pids_in(path)
    wait_until(lambda: not is_running(worker) and not is_running(inside))
    for pid in (outside, daemon):
        os.kill(pid, signal.SIGKILL)


def test_the_peak_memory_is_the_predictors_own(starter):
    # The memory of the process that starts a predictor must not count.
    ballast = bytearray(os.urandom(1)) * (1024 * MIB)
    with starter.started(ECHO) as predictor:
        prediction = starter.predict(predictor)
    assert len(ballast) == 1024 * MIB
    assert prediction.peak_memory_bytes < 512 * MIB
