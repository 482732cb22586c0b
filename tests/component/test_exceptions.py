"""The exception tree: the drawing matches the classes, and every exception survives a process boundary."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from airflow_batchexec import exceptions
from airflow_batchexec.exceptions import BatchExecError

CLASSES = {
    name: value
    for name, value in vars(exceptions).items()
    if inspect.isclass(value) and issubclass(value, BatchExecError)
}
LINE = re.compile(r"^ {4}(?P<branches>[│├└─ ]*)(?P<name>[A-Za-z]+Error)(?P<note>.*)$")


def drawn_tree():
    """(name, parent, retryable) for every line of the drawing in the module's docstring."""
    ancestors: list[str] = []
    for line in exceptions.__doc__.splitlines():
        if match := LINE.match(line):
            depth = len(match["branches"]) // 4
            ancestors[depth:] = [match["name"]]
            parent = ancestors[depth - 1] if depth else None
            yield match["name"], parent, "(retryable)" in match["note"]


TREE = list(drawn_tree())


def test_the_drawn_tree_matches_the_classes():
    defined = {
        (name, None if cls is BatchExecError else cls.__bases__[0].__name__) for name, cls in CLASSES.items()
    }
    assert {(name, parent) for name, parent, _ in TREE} == defined


def test_no_class_is_drawn_twice():
    names = [name for name, _, _ in TREE]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("name", "retryable"), [(name, retryable) for name, _, retryable in TREE])
def test_errors_are_retryable_as_drawn(name, retryable):
    assert CLASSES[name].retryable is retryable


def test_all_exceptions_are_exported():
    assert sorted(exceptions.__all__) == sorted(CLASSES)


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_exceptions_pickle_with_message_and_details(cls):
    error = cls(
        "day.csv: 17 is too much; take less.", file="day.csv", numbers=[1, 2], traceback="line 1\nline 2"
    )
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert (copy.message, copy.details, str(copy)) == (error.message, error.details, str(error))


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_every_exception_has_its_own_docstring(cls):
    assert cls.__doc__
    assert cls.__doc__ != cls.__base__.__doc__
