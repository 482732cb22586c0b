from __future__ import annotations

import os
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from predictors import wait_until

from airflow_batchexec.engine.predictor.output import LineForwarder

KIB = 1024


class Stream:
    """A pipe whose forwarded lines are collected."""

    def __init__(self, on_line=None):
        self.lines = []
        self.read_end, write_end = os.pipe()
        self.forwarder = LineForwarder(
            stream=os.fdopen(self.read_end, "rb"),
            name="stdout",
            on_line=on_line or (lambda name, line: self.lines.append((name, line))),
        )
        self.pipe = os.fdopen(write_end, "wb", buffering=0)

    def write(self, data):
        unwritten = memoryview(data)
        while unwritten:
            unwritten = unwritten[self.pipe.write(unwritten) :]

    def close(self):
        self.pipe.close()
        self.forwarder.join(120)

    def texts(self):
        return [line for _, line in self.lines]


def forwarded(*pieces):
    stream = Stream()
    for piece in pieces:
        stream.write(piece)
    stream.close()
    return stream.texts()


def omitted(line):
    assert line.endswith("more bytes of output were omitted from the log")
    return int(line.removeprefix("… ").split()[0].replace(",", ""))


def test_lines_are_forwarded_with_the_streams_name():
    stream = Stream()
    stream.write(b"one\ntwo\r\n\nno line end")
    stream.close()
    assert stream.lines == [("stdout", "one"), ("stdout", "two"), ("stdout", ""), ("stdout", "no line end")]


def test_invalid_utf8_is_replaced():
    assert forwarded(b"caf\xe9\n", "Zürich\n".encode()) == ["caf\ufffd", "Zürich"]


@given(
    st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line and b"\r" not in line), max_size=40)
)
def test_lines_do_not_depend_on_how_the_stream_is_chunked(lines):
    data = b"".join(line + b"\n" for line in lines)
    pieces = [data[start : start + 7] for start in range(0, len(data), 7)]
    assert forwarded(*pieces) == [line.decode("utf-8", "replace") for line in lines]


def test_a_long_line_is_truncated_and_the_rest_counted():
    first, second, last = forwarded(b"x" * (5 << 20) + b"\nnext\n")
    assert first == "x" * (8 * KIB)
    assert second == "next"
    assert omitted(last) == (5 << 20) - 8 * KIB


def test_a_long_line_without_a_line_end_is_counted_completely():
    kept, last = forwarded(b"x" * 100_000)
    assert len(kept) + omitted(last) == 100_000


@pytest.mark.parametrize("line", [b"short", b"x" * 1000])
def test_output_over_the_budget_is_omitted_and_counted(line):
    data = (line + b"\n") * (4_000_000 // (len(line) + 1))
    *kept, last = forwarded(data)
    assert len(kept) <= 10_000
    assert sum(map(len, kept)) <= 1 << 20
    assert set(kept) == {line.decode()}
    assert omitted(last) == len(data) - len(kept) * (len(line) + 1)


def test_each_file_has_its_own_budget_and_reports_omitted_bytes():
    stream = Stream()
    stream.write(b"first\n" * 20_000 + b"half a line")
    stream.forwarder.end_file()
    assert stream.texts()[:10_000] == ["first"] * 10_000
    assert omitted(stream.texts()[-1]) == 10_000 * 6 + len("half a line")
    stream.write(b"second\n")
    stream.close()
    assert stream.texts()[10_001:] == ["second"]


@given(
    st.lists(
        st.tuples(
            st.lists(
                st.binary(max_size=20).filter(lambda line: b"\n" not in line and b"\r" not in line),
                max_size=5,
            ),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_output_is_attributed_to_the_file_during_which_it_was_written(files):
    stream = Stream()
    seen = []
    for lines, has_line_end in files:
        data = b"".join(line + b"\n" for line in lines)
        stream.write(data if has_line_end else data.removesuffix(b"\n"))
        stream.forwarder.end_file()
        seen.append(stream.texts()[sum(map(len, seen)) :])
    stream.close()
    texts = [[line.decode("utf-8", "replace") for line in lines] for lines, _ in files]
    for got, expected, (_, has_line_end) in zip(seen, texts, files, strict=True):
        # An empty line without a line end does not count as a line.
        assert got == (expected if has_line_end or not expected or expected[-1] else expected[:-1])
    assert stream.texts() == [line for got in seen for line in got]


def test_the_end_of_a_file_does_not_wait_for_later_output():
    def keep_printing():
        with suppress(BrokenPipeError):
            while not stop.is_set():
                stream.write(b"on and on\n")

    stop = threading.Event()
    stream = Stream()
    thread = threading.Thread(target=keep_printing)
    thread.start()
    wait_until(lambda: stream.lines)
    for _ in range(20):
        stream.forwarder.end_file()
    stop.set()
    thread.join(120)
    stream.close()
    assert {text for text in stream.texts() if not text.startswith("…")} <= {
        "on and on"[a:b] for a in range(10) for b in range(10)
    }


def test_a_failing_log_does_not_block_the_model(caplog):
    def broken(name, line):
        raise BrokenPipeError("the log is closed")

    stream = Stream(on_line=broken)
    writer = threading.Thread(target=stream.write, args=(b"a line\n" * 100_000,))
    writer.start()
    writer.join(120)
    assert not writer.is_alive()
    stream.close()
    assert [record.message for record in caplog.records] == [
        "Cannot forward the pod's stdout any longer; further output is discarded."
    ]


def test_a_stream_kept_open_by_another_process_is_closed_anyway():
    stream = Stream()
    stream.write(b"one\n")
    wait_until(lambda: stream.texts() == ["one"])
    stream.forwarder.join(0)
    with pytest.raises(BrokenPipeError):
        stream.pipe.write(b"two\n")
    stream.pipe.close()
