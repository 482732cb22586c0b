from __future__ import annotations

import os
import threading

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
        self.forwarder.join(20)

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


def test_each_file_has_a_budget_of_its_own_and_is_told_what_the_last_one_left_out():
    stream = Stream()
    stream.write(b"first\n" * 20_000 + b"half a line")
    wait_until(lambda: stream.forwarder._dropped_bytes >= 60_000)
    stream.forwarder.renew_budget()
    stream.write(b" ends\nsecond\n")
    stream.close()
    texts = stream.texts()
    assert texts[:10_000] == ["first"] * 10_000
    assert omitted(texts[10_000]) in {60_000, 60_000 + len("half a line")}
    assert "second" in texts[10_001:]


def test_a_log_that_cannot_be_written_does_not_block_the_model(caplog):
    def broken(name, line):
        raise BrokenPipeError("nobody reads the log")

    stream = Stream(on_line=broken)
    writer = threading.Thread(target=stream.write, args=(b"a line\n" * 100_000,))
    writer.start()
    writer.join(20)
    assert not writer.is_alive()
    stream.close()
    assert [record.message for record in caplog.records] == [
        "What the pod prints on stdout cannot be passed on any more."
    ]
