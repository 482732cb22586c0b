"""Builds and deployments: what the files of a model repository say, and what makes a folder a build.

A build is any folder with a ``model.toml`` or an ``MLmodel`` file, however it came there. Reading is strict: an
unknown key is refused, so that a misspelt ``requirement`` is not found out when the model misses a package.
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
"""In a bucket: whose build this is to be. It stays, so that nobody can publish the same id again."""
PUBLISHED_FILE = ".published"
"""In a bucket: the claimed build is whole."""

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
        interpreter: The Python executable that runs it; ``None``: the one that runs the execution.
        requirements: Requirement strings that must be met in the interpreter.
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
        """The build as JSON values; ``from_dict`` is the inverse."""
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
        """Read what ``to_dict`` gave.

        Raises:
            InvalidBuildError: It gave something else.
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
                f"This is no description of a build: {error!r} in {dict(values)!r}."
            ) from error


@dataclass(frozen=True, slots=True)
class Deployment:
    """Which build of a model is live, and what an execution uses where its request does not say.

    Attributes:
        build_id: The live build.
        pods: How many pods; ``None``: not set.
        instance: The name of the instance of each pod; ``None``: not set.
        purchase_option: ``spot`` or ``on-demand``; ``None``: not set.
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
        """A deployment whose values have been checked; ``purchase_option`` is read by ``PurchaseOption.parse``.

        Raises:
            ConfigurationError: A value is wrong.
        """
        check_build_id(build_id)
        # A TOML or JSON true is a Python int.
        if pods is not None and (not isinstance(pods, int) or isinstance(pods, bool) or pods < 1):
            raise ConfigurationError(f"pods: {pods!r} is no whole number above 0.", field="pods")
        if instance is not None and (
            not isinstance(instance, str) or not instance.strip() or not instance.isprintable()
        ):
            raise ConfigurationError(f"instance: {instance!r} is no name of an instance.", field="instance")
        option = None
        if purchase_option is not None:
            try:
                option = PurchaseOption.parse(str(purchase_option))
            except ValueError as error:
                raise ConfigurationError(f"purchase_option: {error}", field="purchase_option") from None
        return cls(build_id, pods, instance, option)

    @classmethod
    def parse(cls, data: bytes, *, source: str) -> Deployment:
        """Read a ``deployment.toml``; ``source`` names the file in errors.

        Raises:
            InvalidBuildError: It is no TOML, or a key or value is wrong.
        """
        table = _read_toml(data, source, keys=cls.__slots__, required="build_id")
        try:
            return cls.of(**table)
        except ConfigurationError as error:
            raise InvalidBuildError(f"{source}: {error}", file=source, **error.details) from error

    def to_dict(self) -> dict[str, str | int | None]:
        """The deployment as JSON values."""
        return {key: getattr(self, key) for key in self.__slots__}

    def to_toml(self) -> str:
        """The content of ``deployment.toml``; ``parse`` is the inverse."""
        return format_toml({key: value for key, value in self.to_dict().items() if value is not None})


def check_build_id(build_id: str) -> None:
    """Refuse a build id that is malformed, or is the name of the file that lies beside the builds.

    Raises:
        ConfigurationError: It is one of these.
    """
    if not isinstance(build_id, str):
        raise ConfigurationError(f"build_id: {build_id!r} is no text.", field="build_id")
    check_id(build_id, field="build_id")
    if build_id == DEPLOYMENT_FILE:
        raise ConfigurationError(
            f"build_id: {build_id!r} is the name of the deployment's file.", field="build_id"
        )


def is_build(names: Collection[str]) -> bool:
    """Whether a folder with these files is a build that is whole."""
    if CLAIM_FILE in names and PUBLISHED_FILE not in names:
        return False
    return MODEL_FILE in names or MLFLOW_FILE in names


def read_build(
    *, model_id: str, build_id: str, location: Location, model_toml: bytes | None, mlflow: bool, source: str
) -> Build:
    """The build that lies in a folder.

    Args:
        model_id: The model.
        build_id: The version.
        location: The build's folder in the repository.
        model_toml: The content of its ``model.toml``, where it has one.
        mlflow: Whether it has an ``MLmodel`` file.
        source: The name of ``model.toml`` in errors.

    Raises:
        ConfigurationError: An id is malformed.
        InvalidBuildError: ``model.toml`` is no TOML, or a key or value is wrong.
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
        raise _wrong_key(
            source, "entrypoint", f"remove it: the {MLFLOW_FILE} file beside it says how to load"
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
    """A flat table of texts and whole numbers as TOML, with every special character escaped."""
    lines = []
    for key, value in table.items():
        assert _BARE_KEY.fullmatch(key), key
        lines.append(f"{key} = {value if isinstance(value, int) else _quote(value)}\n")
    return "".join(lines)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    # TOML 1.0, "String": control characters must be escaped, and U+007F with them.
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


def _read_toml(data: bytes, source: str, *, keys: Collection[str], required: str | None) -> dict[str, Any]:
    try:
        table = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise InvalidBuildError(f"{source}: this is no UTF-8 text: {error}.", file=source) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidBuildError(f"{source}: this is no TOML: {error}.", file=source) from error
    for key in table:
        if key not in keys:
            import difflib  # noqa: PLC0415  only for the message

            close = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(keys)}"
            raise _wrong_key(source, key, f"there is no such key; {hint}")
    if required and required not in table:
        raise _wrong_key(source, required, "it is missing")
    return table


def _entrypoint(value: Any, source: str) -> str:
    module, colon, attribute = value.partition(":") if isinstance(value, str) else ("", "", "")
    names = [*module.split("."), attribute]
    if not colon or not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        raise _wrong_key(
            source, "entrypoint", f"{value!r} is not written module:attribute, as in model:Model"
        )
    return f"{module}:{attribute}"


def _interpreter(value: Any, source: str) -> str:
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise _wrong_key(source, "interpreter", f"{value!r} is no absolute path of a Python executable")
    return value


def _requirements(value: Any, source: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(
        isinstance(r, str) and r.strip() and r.isprintable() for r in value
    ):
        raise _wrong_key(
            source, "requirements", f'{value!r} is no list of texts such as ["scikit-learn>=1.5"]'
        )
    return tuple(value)


def _wrong_key(source: str, key: str, problem: str) -> InvalidBuildError:
    return InvalidBuildError(f"{source}: {key}: {problem}.", file=source, field=key)
