from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.locations import (
    AllowedLocations,
    Location,
    Scheme,
    check_id,
    check_relative_path,
)
from airflow_batchexec.exceptions import ConfigurationError, LocationError

_parts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=12
).filter(lambda part: part not in {".", ".."} and all(ord(c) >= 32 and ord(c) != 127 for c in part))
_relative_paths = st.lists(_parts, min_size=1, max_size=4).map("/".join)
_keys = st.lists(_parts, max_size=4).map("/".join)
_buckets = st.from_regex(r"[a-z0-9][a-z0-9-]{1,19}[a-z0-9]", fullmatch=True)
_any_text = st.text(st.characters() | st.sampled_from("/.:"), max_size=20)


@st.composite
def _locations(draw):
    scheme = draw(st.sampled_from(Scheme))
    if scheme is Scheme.FILE:
        return Location.parse("file:///" + draw(_keys))
    return Location.parse(f"{scheme.value}://{draw(_buckets)}/{draw(_keys)}")


@given(_locations())
def test_uri_round_trips(location):
    assert Location.parse(location.uri) == location
    assert str(location) == location.uri


@given(_locations(), _relative_paths)
def test_joined_location_is_contained_and_relative_inverts_join(folder, relative):
    inner = folder.join(relative)
    assert folder.contains(inner)
    assert folder.relative(inner) == relative
    assert inner.name == PurePosixPath(relative).name
    assert Location.parse(inner.uri) == inner


@given(_locations(), _parts)
def test_parent_of_a_joined_location_is_the_folder(folder, name):
    assert folder.join(name).parent == folder


@given(_locations())
def test_location_contains_itself_and_is_contained_in_its_parent(location):
    assert location.contains(location)
    assert location.relative(location) == ""
    assert location.parent.contains(location)


@given(_locations(), _locations())
def test_locations_that_contain_each_other_are_equal(one, other):
    assert (one.contains(other) and other.contains(one)) == (one == other)


@given(_locations(), _any_text)
def test_join_never_escapes_the_folder(folder, text):
    try:
        inner = folder.join(text)
    except LocationError:
        return
    assert folder.contains(inner)
    assert inner != folder
    assert ".." not in PurePosixPath(inner.key).parts


@given(st.sampled_from(["", "s3://", "s3a://", "file://", "file:///", "gs://bucket/"]), _any_text)
def test_parse_returns_a_location_or_raises_location_error(prefix, text):
    try:
        location = Location.parse(prefix + text)
    except LocationError:
        return
    assert Location.parse(location.uri) == location


@given(_buckets, _keys)
def test_bucket_and_folder_equal_their_uri(bucket, folder):
    expected = Location.parse(f"s3://{bucket}/{folder}")
    for name in (bucket, f"s3://{bucket}", f"s3://{bucket}/"):
        assert Location.of(bucket=name, folder=folder, field="folder", bucket_field="bucket") == expected
        assert (
            Location.of(bucket=name, folder=expected.uri, field="folder", bucket_field="bucket") == expected
        )


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://b", Location(Scheme.S3, "b", "")),
        ("s3://b/", Location(Scheme.S3, "b", "")),
        ("S3://b/in/", Location(Scheme.S3, "b", "in")),
        ("s3a://b/in", Location(Scheme.S3, "b", "in")),
        ("gs://b/in/2013", Location(Scheme.GS, "b", "in/2013")),
        ("file:///", Location(Scheme.FILE, "", "/")),
        ("file:///data/in/", Location(Scheme.FILE, "", "/data/in")),
        ("s3://b/100%25 a+b=c", Location(Scheme.S3, "b", "100%25 a+b=c")),
    ],
)
def test_uri_is_parsed(uri, expected):
    assert Location.parse(uri) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "data/in",
        "/data/in",
        "http://b/in",
        "s3:/b/in",
        "s3://",
        "s3:///in",
        "s3://a b/in",
        "s3://b\n/in",
        "s3://..b/in",
        "s3://user@b/in",
        "s3://b/in/../out",
        "s3://b/./in",
        "s3://b/in//x",
        "s3://b/in\x00",
        "s3://b/\ud800",
        "gs://",
        "gs://b_/in",
        "gs://_b/in",
        "gs://b/in/../out",
        "file://data/in",
        "file:///data/../etc",
    ],
)
def test_error_for_a_malformed_uri_names_the_field(uri):
    with pytest.raises(LocationError, match=r"^source: ") as refused:
        Location.parse(uri, field="source")
    assert refused.value.details["field"] == "source"


@pytest.mark.parametrize(
    ("bucket", "folder", "field"),
    [
        ("", "in", "bucket"),
        ("b/c", "in", "bucket"),
        ("s3://b/c", "in", "bucket"),
        ("file:///b", "in", "bucket"),
        ("b", "/in", "folder"),
        ("b", "in/../out", "folder"),
        ("b", "s3://other/in", "folder"),
        ("gs://b", "s3://b/in", "folder"),
        ("b", "http://b/in", "folder"),
    ],
)
def test_invalid_bucket_and_folder_are_rejected(bucket, folder, field):
    with pytest.raises(LocationError) as refused:
        Location.of(bucket=bucket, folder=folder, field="folder", bucket_field="bucket")
    assert refused.value.details["field"] == field


def test_local_folder_ignores_the_bucket():
    expected = Location.parse("file:///data")
    for bucket in ("", "b"):
        assert Location.of(bucket=bucket, folder="file:///data", field="f", bucket_field="b") == expected


def test_bucket_without_scheme_uses_the_given_one():
    location = Location.of(bucket="b", folder="in", scheme=Scheme.GS, field="f", bucket_field="b")
    assert location.uri == "gs://b/in"
    for scheme in (Scheme.S3, Scheme.GS):
        for bucket in ("gs://b", "GS://b/"):
            named = Location.of(bucket=bucket, folder="in", scheme=scheme, field="f", bucket_field="b")
            assert named == location
        assert (
            Location.of(bucket="", folder="gs://b/in", scheme=scheme, field="f", bucket_field="b") == location
        )


def test_common_name_prefix_is_not_containment():
    assert not Location.parse("s3://b/in").contains(Location.parse("s3://b/in-2"))
    assert not Location.parse("s3://b/in").contains(Location.parse("gs://b/in"))
    with pytest.raises(LocationError, match="is not below"):
        Location.parse("s3://b/in").relative(Location.parse("s3://b/in-2"))


@pytest.mark.parametrize("key", ["in//x", "in/../x", "in/./x", "in/x/"])
def test_relative_path_of_an_unnormalized_key_is_rejected(key):
    relative = Location.parse("s3://b/in").relative(Location(Scheme.S3, "b", key))
    assert f"in/{relative}" == key
    with pytest.raises(LocationError, match=r"^file: "):
        check_relative_path(relative, field="file")


def test_only_local_locations_have_a_path():
    assert Location.parse("file:///data/in").path == Path("/data/in")
    with pytest.raises(LocationError, match="s3://b/in"):
        _ = Location.parse("s3://b/in").path


def test_local_path_is_made_absolute_and_parent_references_are_resolved(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    assert Location.of_path(Path("x.csv")).path == tmp_path / "in" / "x.csv"
    assert Location.of_path(Path("../out")).path == tmp_path.resolve() / "out"


def test_by_default_buckets_are_allowed_and_local_files_are_not():
    allowed = AllowedLocations.parse("  ")
    allowed.check(Location.parse("s3://any/thing"), field="source")
    allowed.check(Location.parse("gs://any/thing"), field="source")
    with pytest.raises(LocationError, match=r"^source: file:///data .*allowed_locations"):
        allowed.check(Location.parse("file:///data"), field="source")


def test_only_locations_below_the_listed_roots_are_allowed(tmp_path):
    allowed = AllowedLocations.parse(f"s3://b/in, gs://g, file://{tmp_path}")
    for uri in ("s3://b/in", "s3://b/in/x", "gs://g", "gs://g/any", f"file://{tmp_path}/x"):
        allowed.check(Location.parse(uri), field="source")
    for uri in ("s3://b/in-2", "s3://c/in", "gs://b/in", "s3://g/any", f"file://{tmp_path}-2", "file:///"):
        with pytest.raises(LocationError):
            allowed.check(Location.parse(uri), field="source")


def test_symlink_out_of_the_allowed_locations_is_refused(tmp_path):
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "link").symlink_to(tmp_path)
    allowed = AllowedLocations.parse(f"file://{tmp_path}/allowed")
    allowed.check(Location.of_path(tmp_path / "allowed" / "inside"), field="source")
    with pytest.raises(LocationError, match=r"^source: "):
        allowed.check(Location.of_path(tmp_path / "allowed" / "link" / "secret"), field="source")


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="this Python resolves a loop to itself, inside the folder"
)
def test_error_for_a_symlink_loop_names_the_field(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    allowed = AllowedLocations.parse(f"file://{tmp_path}")
    with pytest.raises(LocationError, match=r"^source: .*loop"):
        allowed.check(Location.of_path(tmp_path / "loop" / "x"), field="source")


@given(_any_text)
def test_valid_id_is_a_single_folder_name(text):
    try:
        check_id(text, field="model_id")
    except ConfigurationError:
        return
    repository = Location.parse("s3://models")
    assert repository.join(text).parent == repository


@pytest.mark.parametrize(
    "value", ["", ".", "..", "a/b", "../a", "/a", "a b", "é", "a\n", "x" * 129, "-rf", "_x"]
)
def test_invalid_id_is_rejected(value):
    with pytest.raises(ConfigurationError) as refused:
        check_id(value, field="build_id")
    assert refused.value.details["field"] == "build_id"


@pytest.mark.parametrize("value", ["m", "arrival-delay", "2013_v1.0", "x" * 128])
def test_valid_id_is_accepted(value):
    check_id(value, field="model_id")
