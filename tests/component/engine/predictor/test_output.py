from __future__ import annotations

import os
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pods import wait_until

from airflow_batchexec.engine.predictor.output import LineForwarder

KIB = 1024


class Stream:
    """A pipe whose lines are collected."""

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
        left = memoryview(data)
        while left:
            left = left[self.pipe.write(left) :]

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
    assert line.endswith("more bytes of output were left out of the log")
    return int(line.removeprefix("… ").split()[0].replace(",", ""))


def test_lines_are_passed_on_under_the_streams_name():
    stream = Stream()
    stream.write(b"one\ntwo\r\n\nno line end")
    stream.close()
    assert stream.lines == [("stdout", "one"), ("stdout", "two"), ("stdout", ""), ("stdout", "no line end")]


def test_bytes_that_are_no_text_are_replaced():
    assert forwarded(b"caf\xe9\n", "Zürich\n".encode()) == ["caf\ufffd", "Zürich"]


@given(
    st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line and b"\r" not in line), max_size=40)
)
def test_however_a_stream_is_cut_into_pieces_its_lines_are_the_same(lines):
    data = b"".join(line + b"\n" for line in lines)
    pieces = [data[start : start + 7] for start in range(0, len(data), 7)]
    assert forwarded(*pieces) == [line.decode("utf-8", "replace") for line in lines]


def test_of_a_long_line_the_beginning_is_kept_and_the_rest_counted():
    first, second, last = forwarded(b"x" * (5 << 20) + b"\nnext\n")
    assert first == "x" * (8 * KIB)
    assert second == "next"
    assert omitted(last) == (5 << 20) - 8 * KIB


def test_a_long_line_without_an_end_is_counted_to_its_end():
    kept, last = forwarded(b"x" * 100_000)
    assert len(kept) + omitted(last) == 100_000


@pytest.mark.parametrize("line", [b"short", b"x" * 1000])
def test_output_over_the_budget_is_counted_and_left_out(line):
    data = (line + b"\n") * (4_000_000 // (len(line) + 1))
    *kept, last = forwarded(data)
    assert len(kept) <= 10_000
    assert sum(map(len, kept)) <= 1 << 20
    assert set(kept) == {line.decode()}
    assert omitted(last) == len(data) - len(kept) * (len(line) + 1)


def test_each_file_has_a_budget_of_its_own_and_says_what_it_left_out():
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
def test_what_was_written_before_the_end_of_a_file_is_that_files_and_only_that(files):
    stream = Stream()
    seen = []
    for lines, has_an_end in files:
        data = b"".join(line + b"\n" for line in lines)
        stream.write(data if has_an_end else data.removesuffix(b"\n"))
        stream.forwarder.end_file()
        seen.append(stream.texts()[sum(map(len, seen)) :])
    stream.close()
    texts = [[line.decode("utf-8", "replace") for line in lines] for lines, _ in files]
    for got, expected, (_, has_an_end) in zip(seen, texts, files, strict=True):
        # An empty line without an end is no line.
        assert got == (expected if has_an_end or not expected or expected[-1] else expected[:-1])
    assert stream.texts() == [line for got in seen for line in got]


def test_the_end_of_a_file_passes_on_no_more_than_was_there():
    def print_on():
        with suppress(BrokenPipeError):
            while not enough.is_set():
                stream.write(b"on and on\n")

    enough = threading.Event()
    stream = Stream()
    thread = threading.Thread(target=print_on)
    thread.start()
    wait_until(lambda: stream.lines)
    for _ in range(20):
        stream.forwarder.end_file()
    enough.set()
    thread.join(120)
    stream.close()
    assert {text for text in stream.texts() if not text.startswith("…")} <= {
        "on and on"[a:b] for a in range(10) for b in range(10)
    }


def test_a_log_that_cannot_be_written_does_not_block_the_model(caplog):
    def broken(name, line):
        raise BrokenPipeError("nobody reads the log")

    stream = Stream(on_line=broken)
    writer = threading.Thread(target=stream.write, args=(b"a line\n" * 100_000,))
    writer.start()
    writer.join(120)
    assert not writer.is_alive()
    stream.close()
    assert [record.message for record in caplog.records] == [
        "What the pod prints on stdout cannot be passed on any more."
    ]


def test_a_stream_that_a_process_keeps_open_is_closed_all_the_same():
    stream = Stream()
    stream.write(b"one\n")
    wait_until(lambda: stream.texts() == ["one"])
    stream.forwarder.join(0)
    with pytest.raises(BrokenPipeError):
        stream.pipe.write(b"two\n")
    stream.pipe.close()
