"""Locations of files: ``s3://``, ``gs://`` and ``file://`` URIs, and the guide's pairs of bucket and folder.

A :class:`Location` that was parsed or joined is normalized: it has no ``..``, no empty segment and no trailing slash.
So containment is a prefix test on the segments, and joining a name cannot escape the folder. Locations listed by a
storage keep their stored keys, which may have such segments; ``relative`` then returns a path that
``check_relative_path`` rejects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from airflow_batchexec.exceptions import ConfigurationError, LocationError

__all__ = ["AllowedLocations", "Location", "Scheme", "canonical", "check_id", "check_relative_path"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NOT_NORMAL = frozenset({"", ".", ".."})
# All names that boto3 accepts and that either service has ever allowed; older ones may contain capitals and
# underscores.
_BUCKET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")


class Scheme(StrEnum):
    """The supported storages."""

    S3 = "s3"
    GS = "gs"
    FILE = "file"


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """One object or folder.

    Attributes:
        scheme: The storage.
        bucket: The bucket's name; empty for a local path.
        key: The object's key without a leading slash (empty for the whole bucket), or the absolute local path.
    """

    scheme: Scheme
    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str, *, field: str = "uri") -> Location:
        """Parse a URI such as ``s3://bucket/folder`` or ``file:///folder``.

        Args:
            uri: The URI. It is not percent-decoded.
            field: The field to name in errors.

        Raises:
            LocationError: The URI is malformed or relative, or has an unsupported scheme.
        """
        scheme_name, separator, rest = uri.partition("://")
        scheme_name = "s3" if scheme_name.lower() == "s3a" else scheme_name.lower()
        if not separator or scheme_name not in {s.value for s in Scheme}:
            raise LocationError(f"{field}: {uri!r} is not an s3://, gs:// or file:// URI.", field=field)
        scheme = Scheme(scheme_name)
        if scheme is Scheme.FILE:
            if not rest.startswith("/"):
                raise LocationError(
                    f"{field}: {uri!r} is relative; use file:// with an absolute path, such as file:///data/in.",
                    field=field,
                )
            return cls(scheme, "", "/" + _normalize(rest.strip("/"), uri, field))
        bucket, _, key = rest.partition("/")
        _check_bucket(bucket, scheme, field)
        return cls(scheme, bucket, _normalize(key.rstrip("/"), uri, field))

    @classmethod
    def of(
        cls, *, bucket: str, folder: str, scheme: Scheme = Scheme.S3, field: str, bucket_field: str
    ) -> Location:
        """Combine the guide's bucket and folder; a folder that is a URI needs no bucket.

        Args:
            bucket: A bucket's name, ``s3://name`` or ``gs://name``; may be empty if ``folder`` is a URI.
            folder: A path in the bucket, or a URI.
            scheme: The storage of the bucket if ``bucket`` is a plain name.
            field: The folder's field, for errors.
            bucket_field: The bucket's field, for errors.

        Raises:
            LocationError: The bucket is missing, bucket and folder disagree, or one of them is malformed.
        """
        if "://" in folder:
            location = cls.parse(folder, field=field)
            if bucket and location.scheme is not Scheme.FILE and not _is_bucket_of(location, bucket):
                raise LocationError(
                    f"{field}: {folder!r} is in a different bucket than {bucket_field} ({bucket!r}).",
                    field=field,
                )
            return location
        if not bucket:
            raise LocationError(
                f"{bucket_field}: {field} {folder!r} needs a bucket. Set bucket or {bucket_field}, or use a URI as "
                f"the folder.",
                field=bucket_field,
            )
        if "://" in bucket:
            root = cls.parse(bucket, field=bucket_field)
            if root.scheme is Scheme.FILE or root.key:
                raise LocationError(
                    f"{bucket_field}: {bucket!r} is not a valid bucket name.", field=bucket_field
                )
            scheme, bucket = root.scheme, root.bucket
        _check_bucket(bucket, scheme, bucket_field)
        if folder.startswith("/"):
            raise LocationError(
                f"{field}: {folder!r} is absolute; a folder in a bucket must not start with a slash.",
                field=field,
            )
        return cls(scheme, bucket, _normalize(folder.rstrip("/"), folder, field))

    @classmethod
    def of_path(cls, path: Path) -> Location:
        """A local file or folder; ``..`` is resolved as the operating system does.

        Raises:
            LocationError: The path contains a control character or is not valid Unicode.
        """
        absolute = path.resolve() if ".." in path.parts else path.absolute()
        return cls.parse(f"file://{absolute}", field=str(path))

    @property
    def uri(self) -> str:
        """The location as a URI; the inverse of ``parse``."""
        return f"{self.scheme.value}://{self.bucket}{'' if self.scheme is Scheme.FILE else '/'}{self.key}"

    @property
    def name(self) -> str:
        """The last segment."""
        return PurePosixPath(self.key).name

    @property
    def path(self) -> Path:
        """The local path.

        Raises:
            LocationError: The location is in a bucket.
        """
        if self.scheme is not Scheme.FILE:
            raise LocationError(f"{self.uri} is not a local path.", uri=self.uri)
        return Path(self.key)

    @property
    def parent(self) -> Location:
        """The parent folder."""
        parent = str(PurePosixPath(self.key).parent)
        return Location(self.scheme, self.bucket, "" if parent == "." else parent)

    def join(self, relative: str) -> Location:
        """The location at a relative path below this folder.

        Raises:
            LocationError: The path is absolute or escapes the folder.
        """
        check_relative_path(relative, field="path")
        return Location(
            self.scheme, self.bucket, f"{self.key.rstrip('/')}/{relative}".removeprefix(self._root)
        )

    def relative(self, inner: Location) -> str:
        """The path of ``inner`` relative to this folder, as stored; empty if they are the same.

        Raises:
            LocationError: ``inner`` is not below this folder.
        """
        if not self.contains(inner):
            raise LocationError(f"{inner.uri} is not below {self.uri}.", uri=inner.uri)
        if not self.key:
            return inner.key
        return inner.key.removeprefix(self.key.rstrip("/")).removeprefix("/")

    def contains(self, other: Location) -> bool:
        """Whether ``other`` is this location or is below it."""
        if (self.scheme, self.bucket) != (other.scheme, other.bucket):
            return False
        prefix = self.key.rstrip("/")
        return not prefix or other.key == prefix or other.key.startswith(prefix + "/")

    @property
    def _root(self) -> str:
        return "" if self.scheme is Scheme.FILE else "/"

    def __str__(self) -> str:
        return self.uri


@dataclass(frozen=True, slots=True)
class AllowedLocations:
    """The files and buckets that executions may access in this deployment.

    Attributes:
        roots: The allowed locations, including everything below them. ``None`` allows all buckets and no local files.
    """

    roots: tuple[Location, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> AllowedLocations:
        """Parse URI prefixes separated by commas or whitespace; an empty string means ``None``.

        Raises:
            LocationError: A prefix is not a valid URI.
        """
        words = text.replace(",", " ").split()
        return cls(tuple(Location.parse(w, field="allowed_locations") for w in words) if words else None)

    def check(self, location: Location, *, field: str) -> None:
        """Refuse a location that is not allowed. Symbolic links in local paths are resolved first.

        Raises:
            LocationError: The location is not allowed.
        """
        if self.roots is None:
            allowed = location.scheme is not Scheme.FILE
        elif location.scheme is Scheme.FILE:
            real = canonical(location, field=field)
            allowed = any(
                canonical(root, field="allowed_locations").contains(real)
                for root in self.roots
                if root.scheme is Scheme.FILE
            )
        else:
            allowed = any(root.contains(location) for root in self.roots)
        if not allowed:
            raise LocationError(
                f"{field}: {location.uri} may not be used here. Add it or a parent folder to "
                f"[batchexec] allowed_locations.",
                field=field,
            )


def canonical(location: Location, *, field: str) -> Location:
    """Resolve the symbolic links in a local path, so that two paths of the same folder compare equal.

    Raises:
        LocationError: The links cannot be resolved.
    """
    if location.scheme is not Scheme.FILE:
        return location
    try:
        return Location.of_path(location.path.resolve())
    except (OSError, RuntimeError) as error:  # RuntimeError: Python before 3.13 raises it for a symlink loop
        raise LocationError(
            f"{field}: {location.uri} cannot be resolved: {error}.", field=field, uri=location.uri
        ) from error


def check_relative_path(path: str, *, field: str) -> None:
    """Reject a path that is empty, absolute or not normalized, or that escapes its folder.

    Raises:
        LocationError: The path is one of these.
    """
    if not path or path.startswith("/"):
        raise LocationError(f"{field}: {path!r} is not a relative path.", field=field)
    _normalize(path, path, field)


def check_id(value: str, *, field: str) -> None:
    """Reject a model ID or build ID that cannot name a folder of the model repository.

    Raises:
        ConfigurationError: The ID is empty, longer than 128 characters, contains characters other than ASCII letters,
            digits, ``.``, ``_`` and ``-``, or does not start with a letter or digit.
    """
    if not _ID.fullmatch(value):
        raise ConfigurationError(
            f"{field}: {value!r} is not a valid ID. An ID starts with a letter or digit, and consists of up to 128 "
            f"letters, digits, '.', '_' and '-'.",
            field=field,
        )


def _normalize(path: str, whole: str, field: str) -> str:
    if _CONTROL_CHARACTER.search(path):
        raise LocationError(f"{field}: {whole!r} contains a control character.", field=field)
    if _SURROGATE.search(path):
        raise LocationError(f"{field}: {whole!r} is not valid Unicode.", field=field)
    if path and not _NOT_NORMAL.isdisjoint(path.split("/")):
        raise LocationError(f"{field}: {whole!r} must not contain '.', '..' or empty segments.", field=field)
    return path


def _is_bucket_of(location: Location, bucket: str) -> bool:
    scheme, separator, name = bucket.rpartition("://")
    scheme = "s3" if scheme.lower() == "s3a" else scheme.lower()
    return name.rstrip("/") == location.bucket and (not separator or scheme == location.scheme.value)


def _check_bucket(bucket: str, scheme: Scheme, field: str) -> None:
    plain_ends = scheme is not Scheme.GS or (bucket[:1].isalnum() and bucket[-1:].isalnum())
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or not plain_ends:
        raise LocationError(f"{field}: {bucket!r} is not a valid bucket name.", field=field)
