"""Builds and deployments: the file formats of a model repository, and what makes a folder a build.

A build is any folder with a ``model.toml`` or an ``MLmodel`` file, however it got there. Parsing is strict: an unknown
key is an error, so that a misspelled ``requirement`` does not surface only when the model misses a package.
"""

from __future__ import annotations

import keyword
import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.config.locations import Location, check_id
from airflow_batchexec.engine.config.purchase_option import PurchaseOption
from airflow_batchexec.exceptions import ConfigurationError, InvalidBuildError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = [
    "CLAIM_FILE",
    "DEPLOYMENT_FILE",
    "MLFLOW_FILE",
    "MODEL_FILE",
    "PUBLISHED_FILE",
    "Build",
    "BuildKind",
    "Deployment",
    "check_build_id",
    "format_toml",
    "is_build",
    "read_build",
]

MODEL_FILE = "model.toml"
MLFLOW_FILE = "MLmodel"
DEPLOYMENT_FILE = "deployment.toml"
CLAIM_FILE = ".publishing"
"""In a bucket: who claimed the build ID. It is kept, so that the ID cannot be published again."""
PUBLISHED_FILE = ".published"
"""In a bucket: the claimed build is complete."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class BuildKind(StrEnum):
    """How a build is loaded."""

    PYTHON = "python"
    MLFLOW = "mlflow"


@dataclass(frozen=True, slots=True)
class Build:
    """One immutable version of a model.

    Attributes:
        model_id: The model.
        build_id: The version.
        kind: How it is loaded.
        entrypoint: ``module:attribute``, a class or function; ``None`` for an MLflow model.
        interpreter: The Python executable that runs it; ``None`` for the one that runs the execution.
        requirements: Requirement strings that the interpreter's environment must satisfy.
        location: The build's folder in the repository.
    """

    model_id: str
    build_id: str
    kind: BuildKind
    entrypoint: str | None
    interpreter: str | None
    requirements: tuple[str, ...]
    location: Location

    def to_dict(self) -> dict[str, Any]:
        """Convert the build to JSON values; ``from_dict`` is the inverse."""
        return {
            "model_id": self.model_id,
            "build_id": self.build_id,
            "kind": self.kind.value,
            "entrypoint": self.entrypoint,
            "interpreter": self.interpreter,
            "requirements": list(self.requirements),
            "location": self.location.uri,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Build:
        """Create a build from the output of ``to_dict``.

        Raises:
            InvalidBuildError: The values are not an output of ``to_dict``.
        """
        try:
            return cls(
                model_id=values["model_id"],
                build_id=values["build_id"],
                kind=BuildKind(values["kind"]),
                entrypoint=values["entrypoint"],
                interpreter=values["interpreter"],
                requirements=tuple(values["requirements"]),
                location=Location.parse(values["location"], field="location"),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidBuildError(
                f"This is not a build description: {error!r} in {dict(values)!r}."
            ) from error


@dataclass(frozen=True, slots=True)
class Deployment:
    """The live build of a model, and the defaults for executions whose requests leave these values unset.

    Attributes:
        build_id: The live build.
        pods: The number of pods; ``None`` if not set.
        instance: The name of each pod's instance; ``None`` if not set.
        purchase_option: ``spot`` or ``on-demand``; ``None`` if not set.
    """

    build_id: str
    pods: int | None = None
    instance: str | None = None
    purchase_option: str | None = None

    @classmethod
    def of(
        cls,
        *,
        build_id: str,
        pods: int | None = None,
        instance: str | None = None,
        purchase_option: str | None = None,
    ) -> Deployment:
        """Create a validated deployment; ``purchase_option`` is parsed by ``PurchaseOption.parse``.

        Raises:
            ConfigurationError: A value is invalid.
        """
        check_build_id(build_id)
        # A TOML or JSON true becomes a Python bool, which is an int.
        if pods is not None and (not isinstance(pods, int) or isinstance(pods, bool) or pods < 1):
            raise ConfigurationError(f"pods: {pods!r} is not a positive integer.", field="pods")
        if instance is not None and (
            not isinstance(instance, str) or not instance.strip() or not instance.isprintable()
        ):
            raise ConfigurationError(
                f"instance: {instance!r} is not a valid instance name.", field="instance"
            )
        option = None
        if purchase_option is not None:
            try:
                option = PurchaseOption.parse(str(purchase_option))
            except ValueError as error:
                raise ConfigurationError(f"purchase_option: {error}", field="purchase_option") from None
        return cls(build_id, pods, instance, option)

    @classmethod
    def parse(cls, data: bytes, *, source: str) -> Deployment:
        """Parse a ``deployment.toml``; ``source`` names the file in errors.

        Raises:
            InvalidBuildError: The file is not valid TOML, or a key or value is invalid.
        """
        table = _read_toml(data, source, keys=cls.__slots__, required="build_id")
        try:
            return cls.of(**table)
        except ConfigurationError as error:
            raise InvalidBuildError(f"{source}: {error}", file=source, **error.details) from error

    def to_dict(self) -> dict[str, str | int | None]:
        """Convert the deployment to JSON values."""
        return {key: getattr(self, key) for key in self.__slots__}

    def to_toml(self) -> str:
        """Format the deployment as ``deployment.toml``; ``parse`` is the inverse."""
        return format_toml({key: value for key, value in self.to_dict().items() if value is not None})


def check_build_id(build_id: str) -> None:
    """Check that a build ID is well-formed and is not the name of the deployment file, which is next to the builds.

    Raises:
        ConfigurationError: The build ID is invalid.
    """
    if not isinstance(build_id, str):
        raise ConfigurationError(f"build_id: {build_id!r} is not a string.", field="build_id")
    check_id(build_id, field="build_id")
    if build_id == DEPLOYMENT_FILE:
        raise ConfigurationError(
            f"build_id: {build_id!r} is reserved for the deployment file.", field="build_id"
        )


def is_build(names: Collection[str]) -> bool:
    """Whether a folder with these files is a complete build."""
    if CLAIM_FILE in names and PUBLISHED_FILE not in names:
        return False
    return MODEL_FILE in names or MLFLOW_FILE in names


def read_build(
    *, model_id: str, build_id: str, location: Location, model_toml: bytes | None, mlflow: bool, source: str
) -> Build:
    """Read the build in a folder.

    Args:
        model_id: The model.
        build_id: The version.
        location: The build's folder in the repository.
        model_toml: The content of the folder's ``model.toml``, if it has one.
        mlflow: Whether the folder has an ``MLmodel`` file.
        source: The name of ``model.toml`` in errors.

    Raises:
        ConfigurationError: An ID is malformed.
        InvalidBuildError: ``model.toml`` is not valid TOML, or a key or value is invalid.
    """
    check_id(model_id, field="model_id")
    check_build_id(build_id)
    table: dict[str, Any] = {}
    if model_toml is not None:
        table = _read_toml(
            model_toml,
            source,
            keys=("entrypoint", "interpreter", "requirements"),
            required=None if mlflow else "entrypoint",
        )
    if mlflow and "entrypoint" in table:
        raise _invalid_key(
            source, "entrypoint", f"remove it: the {MLFLOW_FILE} file defines how to load the model"
        )
    return Build(
        model_id=model_id,
        build_id=build_id,
        kind=BuildKind.MLFLOW if mlflow else BuildKind.PYTHON,
        entrypoint=None if mlflow else _entrypoint(table["entrypoint"], source),
        interpreter=_interpreter(table["interpreter"], source) if "interpreter" in table else None,
        requirements=_requirements(table.get("requirements", []), source),
        location=location,
    )


def format_toml(table: Mapping[str, str | int]) -> str:
    """Format a flat table of strings and integers as TOML, with every special character escaped."""
    lines = []
    for key, value in table.items():
        assert _BARE_KEY.fullmatch(key), key
        lines.append(f"{key} = {value if isinstance(value, int) else _quote(value)}\n")
    return "".join(lines)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    # TOML 1.0, "String": control characters must be escaped, including U+007F.
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


def _read_toml(data: bytes, source: str, *, keys: Collection[str], required: str | None) -> dict[str, Any]:
    try:
        table = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise InvalidBuildError(f"{source}: not valid UTF-8: {error}.", file=source) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidBuildError(f"{source}: not valid TOML: {error}.", file=source) from error
    for key in table:
        if key not in keys:
            import difflib  # noqa: PLC0415  only for the message

            close = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"valid keys are {', '.join(keys)}"
            raise _invalid_key(source, key, f"unknown key; {hint}")
    if required and required not in table:
        raise _invalid_key(source, required, "it is missing")
    return table


def _entrypoint(value: Any, source: str) -> str:
    module, colon, attribute = value.partition(":") if isinstance(value, str) else ("", "", "")
    names = [*module.split("."), attribute]
    if not colon or not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        raise _invalid_key(
            source, "entrypoint", f"{value!r} is not in the form module:attribute, such as model:Model"
        )
    return f"{module}:{attribute}"


def _interpreter(value: Any, source: str) -> str:
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise _invalid_key(source, "interpreter", f"{value!r} is not an absolute path to a Python executable")
    return value


def _requirements(value: Any, source: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(
        isinstance(r, str) and r.strip() and r.isprintable() for r in value
    ):
        raise _invalid_key(
            source, "requirements", f'{value!r} is not a list of strings, such as ["scikit-learn>=1.5"]'
        )
    return tuple(value)


def _invalid_key(source: str, key: str, problem: str) -> InvalidBuildError:
    return InvalidBuildError(f"{source}: {key}: {problem}.", file=source, field=key)
