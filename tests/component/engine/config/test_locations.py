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
def test_a_location_is_its_own_uri_read_again(location):
    assert Location.parse(location.uri) == location
    assert str(location) == location.uri


@given(_locations(), _relative_paths)
def test_what_is_joined_lies_below_and_is_found_again(folder, relative):
    inner = folder.join(relative)
    assert folder.contains(inner)
    assert folder.relative(inner) == relative
    assert inner.name == PurePosixPath(relative).name
    assert Location.parse(inner.uri) == inner


@given(_locations(), _parts)
def test_the_parent_of_what_is_joined_is_the_folder(folder, name):
    assert folder.join(name).parent == folder


@given(_locations())
def test_every_location_contains_itself_and_lies_in_its_parent(location):
    assert location.contains(location)
    assert location.relative(location) == ""
    assert location.parent.contains(location)


@given(_locations(), _locations())
def test_two_locations_that_contain_each_other_are_one(one, other):
    assert (one.contains(other) and other.contains(one)) == (one == other)


@given(_locations(), _any_text)
def test_no_text_that_is_joined_climbs_out(folder, text):
    try:
        inner = folder.join(text)
    except LocationError:
        return
    assert folder.contains(inner)
    assert inner != folder
    assert ".." not in PurePosixPath(inner.key).parts


@given(st.sampled_from(["", "s3://", "s3a://", "file://", "file:///", "gs://bucket/"]), _any_text)
def test_whatever_text_is_read_is_a_location_or_a_location_error(prefix, text):
    try:
        location = Location.parse(prefix + text)
    except LocationError:
        return
    assert Location.parse(location.uri) == location


@given(_buckets, _keys)
def test_a_bucket_and_a_folder_are_the_uri_of_both(bucket, folder):
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
def test_a_uri_is_read_as_it_is_written(uri, expected):
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
def test_a_malformed_uri_is_refused_by_the_name_of_its_field(uri):
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
def test_a_bucket_and_a_folder_that_do_not_fit_are_refused(bucket, folder, field):
    with pytest.raises(LocationError) as refused:
        Location.of(bucket=bucket, folder=folder, field="folder", bucket_field="bucket")
    assert refused.value.details["field"] == field


def test_a_folder_on_disk_needs_no_bucket_and_ignores_one():
    expected = Location.parse("file:///data")
    for bucket in ("", "b"):
        assert Location.of(bucket=bucket, folder="file:///data", field="f", bucket_field="b") == expected


def test_a_bucket_without_a_scheme_lies_in_the_storage_that_is_asked_for():
    location = Location.of(bucket="b", folder="in", scheme=Scheme.GS, field="f", bucket_field="b")
    assert location.uri == "gs://b/in"
    for scheme in (Scheme.S3, Scheme.GS):
        for bucket in ("gs://b", "GS://b/"):
            named = Location.of(bucket=bucket, folder="in", scheme=scheme, field="f", bucket_field="b")
            assert named == location
        assert (
            Location.of(bucket="", folder="gs://b/in", scheme=scheme, field="f", bucket_field="b") == location
        )


def test_a_folder_whose_name_begins_like_another_does_not_lie_in_it():
    assert not Location.parse("s3://b/in").contains(Location.parse("s3://b/in-2"))
    assert not Location.parse("s3://b/in").contains(Location.parse("gs://b/in"))
    with pytest.raises(LocationError, match="is not below"):
        Location.parse("s3://b/in").relative(Location.parse("s3://b/in-2"))


@pytest.mark.parametrize("key", ["in//x", "in/../x", "in/./x", "in/x/"])
def test_a_stored_key_that_is_no_normal_path_gives_no_relative_path_that_passes(key):
    relative = Location.parse("s3://b/in").relative(Location(Scheme.S3, "b", key))
    assert f"in/{relative}" == key
    with pytest.raises(LocationError, match=r"^file: "):
        check_relative_path(relative, field="file")


def test_only_a_file_has_a_path_on_disk():
    assert Location.parse("file:///data/in").path == Path("/data/in")
    with pytest.raises(LocationError, match="s3://b/in"):
        _ = Location.parse("s3://b/in").path


def test_a_path_on_disk_is_made_absolute_and_followed_upwards(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    assert Location.of_path(Path("x.csv")).path == tmp_path / "in" / "x.csv"
    assert Location.of_path(Path("../out")).path == tmp_path.resolve() / "out"


def test_without_a_list_buckets_are_allowed_and_the_disk_is_not():
    allowed = AllowedLocations.parse("  ")
    allowed.check(Location.parse("s3://any/thing"), field="source")
    allowed.check(Location.parse("gs://any/thing"), field="source")
    with pytest.raises(LocationError, match=r"^source: file:///data .*allowed_locations"):
        allowed.check(Location.parse("file:///data"), field="source")


def test_with_a_list_only_what_lies_below_its_roots_is_allowed(tmp_path):
    allowed = AllowedLocations.parse(f"s3://b/in, gs://g, file://{tmp_path}")
    for uri in ("s3://b/in", "s3://b/in/x", "gs://g", "gs://g/any", f"file://{tmp_path}/x"):
        allowed.check(Location.parse(uri), field="source")
    for uri in ("s3://b/in-2", "s3://c/in", "gs://b/in", "s3://g/any", f"file://{tmp_path}-2", "file:///"):
        with pytest.raises(LocationError):
            allowed.check(Location.parse(uri), field="source")


def test_a_link_that_leads_out_of_what_is_allowed_is_refused(tmp_path):
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "link").symlink_to(tmp_path)
    allowed = AllowedLocations.parse(f"file://{tmp_path}/allowed")
    allowed.check(Location.of_path(tmp_path / "allowed" / "inside"), field="source")
    with pytest.raises(LocationError, match=r"^source: "):
        allowed.check(Location.of_path(tmp_path / "allowed" / "link" / "secret"), field="source")


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="this Python resolves a loop to itself, inside the folder"
)
def test_a_loop_of_links_is_refused_by_the_name_of_its_field(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    allowed = AllowedLocations.parse(f"file://{tmp_path}")
    with pytest.raises(LocationError, match=r"^source: .*loop"):
        allowed.check(Location.of_path(tmp_path / "loop" / "x"), field="source")


@given(_any_text)
def test_an_id_that_passes_is_one_folder_of_its_repository(text):
    try:
        check_id(text, field="model_id")
    except ConfigurationError:
        return
    repository = Location.parse("s3://models")
    assert repository.join(text).parent == repository


@pytest.mark.parametrize(
    "value", ["", ".", "..", "a/b", "../a", "/a", "a b", "é", "a\n", "x" * 129, "-rf", "_x"]
)
def test_a_value_that_is_no_plain_name_is_no_id(value):
    with pytest.raises(ConfigurationError) as refused:
        check_id(value, field="build_id")
    assert refused.value.details["field"] == "build_id"


@pytest.mark.parametrize("value", ["m", "arrival-delay", "2013_v1.0", "x" * 128])
def test_a_plain_name_is_an_id(value):
    check_id(value, field="model_id")
