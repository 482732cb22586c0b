"""Where files lie: ``s3://``, ``gs://`` and ``file://`` URIs, and the guide's pairs of bucket and folder.

A :class:`Location` that was parsed or joined is normal: no ``..``, no empty part, no trailing slash. So a prefix test
on its parts is a containment test, and joining a name to it cannot climb out. What a storage lists is given as it is
stored, and may hold such parts: ``relative`` then gives a path that ``check_relative_path`` refuses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from airflow_batchexec.exceptions import ConfigurationError, LocationError

__all__ = ["AllowedLocations", "Location", "Scheme", "canonical", "check_id", "check_relative_path"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# What boto3 takes and both services have ever allowed: older names may hold capitals and underscores.
_BUCKET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")


class Scheme(StrEnum):
    """The storages that a location can lie in."""

    S3 = "s3"
    GS = "gs"
    FILE = "file"


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """One object or folder.

    Attributes:
        scheme: Which storage.
        bucket: The bucket's name; empty on disk.
        key: The object's key without a leading slash (empty: the whole bucket); on disk the absolute path.
    """

    scheme: Scheme
    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str, *, field: str = "uri") -> Location:
        """Read a URI such as ``s3://bucket/folder`` or ``file:///folder``.

        Args:
            uri: The URI. Nothing in it is percent-decoded.
            field: The name that an error gives.

        Raises:
            LocationError: The URI is malformed, relative, or of another scheme.
        """
        scheme_name, separator, rest = uri.partition("://")
        scheme_name = "s3" if scheme_name.lower() == "s3a" else scheme_name.lower()
        if not separator or scheme_name not in {s.value for s in Scheme}:
            raise LocationError(f"{field}: {uri!r} is no s3://, gs:// or file:// URI.", field=field)
        scheme = Scheme(scheme_name)
        if scheme is Scheme.FILE:
            if not rest.startswith("/"):
                raise LocationError(
                    f"{field}: {uri!r} is relative; write file:// and an absolute path, as in file:///data/in.",
                    field=field,
                )
            return cls(scheme, "", "/" + _normal(rest.strip("/"), uri, field))
        bucket, _, key = rest.partition("/")
        _check_bucket(bucket, scheme, field)
        return cls(scheme, bucket, _normal(key.rstrip("/"), uri, field))

    @classmethod
    def of(
        cls, *, bucket: str, folder: str, scheme: Scheme = Scheme.S3, field: str, bucket_field: str
    ) -> Location:
        """Join the guide's bucket and folder; a folder that is a URI needs no bucket.

        Args:
            bucket: A bucket's name, or ``s3://name`` or ``gs://name``; may be empty where ``folder`` is a URI.
            folder: A path in the bucket, or a whole URI.
            scheme: The storage of a bucket that is only a name.
            field: The folder's field, for errors.
            bucket_field: The bucket's field, for errors.

        Raises:
            LocationError: There is no bucket, the two disagree, or one is malformed.
        """
        if "://" in folder:
            location = cls.parse(folder, field=field)
            if bucket and location.scheme is not Scheme.FILE and not _is_bucket_of(location, bucket):
                raise LocationError(
                    f"{field}: {folder!r} lies in another bucket than {bucket_field} says ({bucket!r}).",
                    field=field,
                )
            return location
        if not bucket:
            raise LocationError(
                f"{bucket_field}: there is no bucket for {field} {folder!r}. Set bucket, or {bucket_field}, "
                f"or write the folder as a URI.",
                field=bucket_field,
            )
        if "://" in bucket:
            root = cls.parse(bucket, field=bucket_field)
            if root.scheme is Scheme.FILE or root.key:
                raise LocationError(
                    f"{bucket_field}: {bucket!r} is not the name of a bucket.", field=bucket_field
                )
            scheme, bucket = root.scheme, root.bucket
        _check_bucket(bucket, scheme, bucket_field)
        if folder.startswith("/"):
            raise LocationError(
                f"{field}: {folder!r} is absolute; a folder in a bucket is written without a leading slash.",
                field=field,
            )
        return cls(scheme, bucket, _normal(folder.rstrip("/"), folder, field))

    @classmethod
    def of_path(cls, path: Path) -> Location:
        """A file or folder on this machine's disk; ``..`` is followed as the operating system would.

        Raises:
            LocationError: The path holds a control character, or is not valid Unicode.
        """
        absolute = path.resolve() if ".." in path.parts else path.absolute()
        return cls.parse(f"file://{absolute}", field=str(path))

    @property
    def uri(self) -> str:
        """The location as text; ``parse`` is its inverse."""
        return f"{self.scheme.value}://{self.bucket}{'' if self.scheme is Scheme.FILE else '/'}{self.key}"

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.key).name

    @property
    def path(self) -> Path:
        """The path on disk.

        Raises:
            LocationError: The location lies in a bucket.
        """
        if self.scheme is not Scheme.FILE:
            raise LocationError(f"{self.uri} is not on this machine's disk.", uri=self.uri)
        return Path(self.key)

    @property
    def parent(self) -> Location:
        """The folder that this lies in."""
        parent = str(PurePosixPath(self.key).parent)
        return Location(self.scheme, self.bucket, "" if parent == "." else parent)

    def join(self, relative: str) -> Location:
        """What lies at a relative path below this folder.

        Raises:
            LocationError: The path is absolute or climbs out.
        """
        check_relative_path(relative, field="path")
        return Location(
            self.scheme, self.bucket, f"{self.key.rstrip('/')}/{relative}".removeprefix(self._root)
        )

    def relative(self, inner: Location) -> str:
        """The path of ``inner`` below this folder, as it is stored; empty where they are the same.

        Raises:
            LocationError: ``inner`` does not lie below this folder.
        """
        if not self.contains(inner):
            raise LocationError(f"{inner.uri} does not lie below {self.uri}.", uri=inner.uri)
        if not self.key:
            return inner.key
        return inner.key.removeprefix(self.key.rstrip("/")).removeprefix("/")

    def contains(self, other: Location) -> bool:
        """Whether ``other`` is this location or lies below it."""
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
    """Which files and buckets this deployment may touch.

    Attributes:
        roots: What is allowed, with everything below it. ``None``: everything in a bucket, nothing on disk.
    """

    roots: tuple[Location, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> AllowedLocations:
        """Read URI prefixes, separated by commas or white space; empty text stands for ``None``.

        Raises:
            LocationError: A prefix is no URI.
        """
        words = text.replace(",", " ").split()
        return cls(tuple(Location.parse(w, field="allowed_locations") for w in words) if words else None)

    def check(self, location: Location, *, field: str) -> None:
        """Refuse a location that is not allowed; on disk, symbolic links are followed first.

        Raises:
            LocationError: It is not allowed.
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
                f"{field}: {location.uri} may not be used here. Add it, or a folder above it, to "
                f"[batchexec] allowed_locations.",
                field=field,
            )


def canonical(location: Location, *, field: str) -> Location:
    """On disk, what lies behind symbolic links: two names of one folder must be seen to be one.

    Raises:
        LocationError: The links cannot be followed.
    """
    if location.scheme is not Scheme.FILE:
        return location
    try:
        return Location.of_path(location.path.resolve())
    except (OSError, RuntimeError) as error:  # RuntimeError: how Python before 3.13 reports a loop of links
        raise LocationError(
            f"{field}: {location.uri} cannot be followed: {error}.", field=field, uri=location.uri
        ) from error


def check_relative_path(path: str, *, field: str) -> None:
    """Refuse a path that is empty, absolute, not normal, or climbs out of its folder.

    Raises:
        LocationError: It is one of these.
    """
    if not path or path.startswith("/"):
        raise LocationError(f"{field}: {path!r} is not a relative path.", field=field)
    _normal(path, path, field)


def check_id(value: str, *, field: str) -> None:
    """Refuse a model id or build id that is not a plain name: an id is one folder of the model repository.

    Raises:
        ConfigurationError: It is empty, longer than 128 characters, or holds anything but ASCII letters, digits,
            ``.``, ``_`` and ``-``, or begins with none of the first two.
    """
    if not _ID.fullmatch(value):
        raise ConfigurationError(
            f"{field}: {value!r} is no id. An id begins with a letter or digit, and holds up to 128 letters, digits, "
            f"'.', '_' and '-'.",
            field=field,
        )


def _normal(path: str, whole: str, field: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in path):  # noqa: PLR2004  ASCII's control characters
        raise LocationError(f"{field}: {whole!r} holds a control character.", field=field)
    if any("\ud800" <= c <= "\udfff" for c in path):
        raise LocationError(f"{field}: {whole!r} is not valid Unicode.", field=field)
    parts = path.split("/") if path else []
    if any(part in {"", ".", ".."} for part in parts):
        raise LocationError(f"{field}: {whole!r} may not hold '.', '..' or empty parts.", field=field)
    return "/".join(parts)


def _is_bucket_of(location: Location, bucket: str) -> bool:
    scheme, separator, name = bucket.rpartition("://")
    scheme = "s3" if scheme.lower() == "s3a" else scheme.lower()
    return name.rstrip("/") == location.bucket and (not separator or scheme == location.scheme.value)


def _check_bucket(bucket: str, scheme: Scheme, field: str) -> None:
    plain_ends = scheme is not Scheme.GS or (bucket[:1].isalnum() and bucket[-1:].isalnum())
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or not plain_ends:
        raise LocationError(f"{field}: {bucket!r} is not the name of a bucket.", field=field)
