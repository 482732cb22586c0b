"""Hypothesis strategies for valid flat fields of executions."""

from __future__ import annotations

from hypothesis import strategies as st

from airflow_batchexec.engine.standalone.file_types import FileType

__all__ = ["VALUES", "valid_fields"]

_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
_folders = st.lists(
    st.text("abcä .+=%&", min_size=1, max_size=6).map(lambda t: f"x{t}x"), min_size=1, max_size=3
).map("/".join)
_numbers = st.integers(0, 2**31 - 1)
_names = st.text("abcXYZ_019-/", max_size=12)
_types = st.sampled_from(["CSV", "csv", "Parquet", "FEATHER", FileType.CSV, FileType.FEATHER])

#: Strategies for the values of each field, by flat name.
VALUES = {
    "model_id": _ids,
    "build_id": st.just("") | _ids,
    "branch": st.sampled_from(["main", "dev", ""]),
    "bucket": st.just("bucket-1"),
    "source_bucket": st.sampled_from(["", "other", "s3://other"]),
    "destination_bucket": st.sampled_from(["", "third"]),
    "source_folder": _folders,
    "destination_folder": _folders,
    "input_file_type": _types,
    "output_file_type": _types,
    "access_token_name": _names,
    "access_secret_name": _names,
    "job_timeout": _numbers,
    "file_timeout": _numbers | _numbers.map(str),
    "parameters": st.dictionaries(
        st.from_regex(r"[a-z]_[a-z0-9_]{0,8}", fullmatch=True),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10),
        max_size=3,
    ),
    "service_account_key_secret_name": st.just("") | st.just("key"),
    "pods": _numbers,
    "instance": st.sampled_from(["", "small", "gpu.t4.xl"]),
    "cpus": st.floats(0, 64) | st.integers(0, 64),
    "memory": _numbers,
    "gpu_type": st.sampled_from(["", "NVIDIA_T4"]),
    "gpu_amount": st.integers(0, 8),
    "iam_role_arn": st.sampled_from(["", "arn:aws:iam::123456789012:role/reader"]),
    "purchase_option": st.sampled_from(["", "spot", "ondemand"]),
}
_ALWAYS_SET = ("model_id", "source_folder", "destination_folder", "bucket")

#: The fields of one execution. A Google Cloud key turns the folders into gs:// URIs, which buckets must not contradict.
valid_fields = st.fixed_dictionaries(
    {name: VALUES[name] for name in _ALWAYS_SET},
    optional={name: strategy for name, strategy in VALUES.items() if name not in _ALWAYS_SET},
).filter(lambda f: not (f.get("service_account_key_secret_name") and "://" in f.get("source_bucket", "")))
