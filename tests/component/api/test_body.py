"""Request bodies: valid JSON is parsed unchanged; anything else is refused with its location."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.api.body import MAX_BYTES, parse_json
from airflow_batchexec.api.errors import ApiError

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_valid_json_round_trips(value: Any):
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_are_parsed_or_refused(data: bytes):
    refused = None
    try:
        value = parse_json(data)
    except ApiError as error:
        refused = error
    if refused is None:
        assert value == json.loads(data.decode("utf-8-sig"))
    else:
        assert refused.status == 400
        assert refused.message.encode()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"a": {"b": [1, NaN]}}', "a.b[1]"),
        ('{"a": {"b": [Infinity]}}', "a.b[0]"),
        ('{"a": -Infinity}', "a"),
        ('{"cpu": 1e999}', "cpu"),
        ('{"model_id": "a\\u0000b"}', "model_id"),
        ('{"model_id\\u0000": 1}', "model_id\\x00"),
        ('{"a": ["\\ud800"]}', "a[0]"),
        ('{"\\udfff": 1}', "\\udfff"),
        ('{"a": {"b": 1, "b": 1}}', "a.b"),
        ('{"parameters": [{"key": "A", "key": "B"}]}', "parameters[0].key"),
        ('"\\u0000"', "The body"),
    ],
)
def test_unstorable_values_are_refused_with_their_path(text: str, named: str):
    with pytest.raises(ApiError) as refused:
        parse_json(text.encode())

    assert refused.value.status == 400
    assert refused.value.message.startswith(f"{named}: ")
    refused.value.message.encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "line 1, column 2"),
        (b'{"a": 1,}', "line 1"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b'{"a": "\xff"}', "byte 7"),
        (b"1" * 5000, "too many digits"),
        (b'{"job_timeout": ' + b"9" * 100_000 + b"}", "too many digits"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b"[" * 40 + b"]" * 40, "nested"),
    ],
)
def test_invalid_json_is_refused_with_a_reason(data: bytes, reason: str):
    with pytest.raises(ApiError, match=reason) as refused:
        parse_json(data)

    assert refused.value.status == 400


def test_a_byte_order_mark_is_accepted():
    assert parse_json(b'\xef\xbb\xbf{"a": 1.5}') == {"a": 1.5}
    assert math.isclose(parse_json(b"1e-400"), 0)


def start(api: Any, **arguments: Any) -> Any:
    return api.post("/batch-job/start-job", **arguments)


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/json; charset=utf-16",
        "json",
    ],
)
def test_other_media_types_are_refused(api: Any, media_type: str):
    response = start(api, content=b"{}", headers={"Content-Type": media_type})

    assert response.status_code == 415
    assert response.json()["failure_message"].startswith("Content-Type: ")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Content-Type": "application/json; charset=UTF-8"}, {"Content-Type": "application/a+json"}],
)
def test_json_is_accepted_with_a_json_media_type_or_none(api: Any, headers: dict[str, str]):
    content = json.dumps(api.job()).encode()

    assert start(api, content=content, headers=headers).status_code == 200


def test_an_oversized_body_is_refused_by_its_content_length(api: Any):
    response = start(api, content=b" " * (MAX_BYTES + 1))

    assert response.status_code == 413
    assert "1,048,576 bytes" in response.json()["failure_message"]


def test_an_oversized_body_without_content_length_is_refused(api: Any):
    sent = 0

    def chunks() -> Any:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b" " * (MAX_BYTES // 8)

    response = start(api, content=chunks())

    assert response.status_code == 413


def test_a_body_of_the_maximum_size_is_accepted(api: Any):
    content = json.dumps(api.job()).encode()

    assert start(api, content=content + b" " * (MAX_BYTES - len(content))).status_code == 200


@pytest.mark.parametrize("content", [b"null", b"[]", b"1", b'"text"', b"{}", b'{"batch_job_request": 1}'])
def test_json_that_is_not_a_start_request_is_refused(api: Any, content: bytes):
    response = start(api, content=content)

    assert response.status_code == 400
    assert response.json()["failure_message"]
