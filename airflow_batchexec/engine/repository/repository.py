"""The model repository: publishes, deploys and finds builds.

``<repository>/<model_id>/<build_id>/`` is a build, and ``<repository>/<model_id>/deployment.toml`` names the live one.
The repository is on disk or in a bucket. All code that runs comes from it: a request names a build, never code.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.locations import Location, Scheme, check_id
from airflow_batchexec.engine.repository.build_transfer import download
from airflow_batchexec.engine.repository.builds import (
    CLAIM_FILE,
    DEPLOYMENT_FILE,
    MLFLOW_FILE,
    MODEL_FILE,
    PUBLISHED_FILE,
    Build,
    Deployment,
    check_build_id,
    is_build,
    read_build,
)
from airflow_batchexec.engine.repository.publishing import publish_folder
from airflow_batchexec.exceptions import (
    BuildExistsError,
    BuildNotFoundError,
    ConfigurationError,
    ModelNotFoundError,
    NoLiveBuildError,
    ObjectNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_batchexec.engine.storage.base import ObjectInfo, Storage

__all__ = ["ModelRepository", "ModelSummary"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model in the repository.

    Attributes:
        model_id: The model.
        builds: The IDs of its builds, sorted.
        live: Its deployment, if it has one.
    """

    model_id: str
    builds: tuple[str, ...]
    live: Deployment | None


class ModelRepository:
    """Builds and deployments below one location.

    Args:
        root: The repository's folder.
        storage: The storage of ``root``.
        cache: The folder on this machine that builds in a bucket are downloaded to.
    """

    def __init__(self, *, root: Location, storage: Storage, cache: Path) -> None:
        self.root = root
        self._storage = storage
        self._cache = cache

    def resolve(self, model_id: str, build_id: str | None = None) -> tuple[Build, Deployment | None]:
        """Return the given build, or the live one, and the model's deployment.

        Raises:
            ConfigurationError: An ID is malformed.
            ModelNotFoundError: The model is not in the repository.
            BuildNotFoundError: The model has no such build.
            NoLiveBuildError: ``build_id`` is not given, and no build is live.
            InvalidBuildError: ``model.toml`` or ``deployment.toml`` is invalid; the message names the file and key.
        """
        check_id(model_id, field="model_id")
        deployment = self._deployment(model_id)
        if build_id:
            return self._build(model_id, build_id), deployment
        if deployment:
            try:
                return self._build(model_id, deployment.build_id), deployment
            except BuildNotFoundError as error:
                file = self.root.join(f"{model_id}/{DEPLOYMENT_FILE}").uri
                raise BuildNotFoundError(f"{file} names a missing build. {error}", **error.details) from error
        builds = self.model(model_id).builds
        raise NoLiveBuildError(
            f"model_id: {model_id!r} has no live build. Its builds: {_join(builds)}. Set build_id, or deploy one: "
            f"batchexec models deploy --model-id {model_id} --build-id {builds[-1]} "
            f"--model-repository {shlex.quote(self.root.uri)}",
            model_id=model_id,
        )

    def fetch(self, build: Build) -> Path:
        """Return the build's folder on this machine, which must not be changed; one in a bucket is downloaded once.

        Raises:
            BuildNotFoundError: The build has been deleted, or belongs to another repository.
            InvalidBuildError: The build cannot be stored on this machine.
            StorageError: The download failed.
        """
        folder = self._folder(build.model_id, build.build_id)
        if build.location != folder:
            raise BuildNotFoundError(
                f"{build.location.uri} is in another model repository; this machine uses {self.root.uri}.",
                build_id=build.build_id,
            )
        if self.root.scheme is Scheme.FILE:
            if not folder.path.is_dir():
                raise self._build_not_found(build.model_id, build.build_id)
            return folder.path

        def files() -> list[ObjectInfo]:
            listed = self._files(folder)
            if not is_build(listed):
                raise self._build_not_found(build.model_id, build.build_id)
            return [info for name, info in listed.items() if name not in {CLAIM_FILE, PUBLISHED_FILE}]

        repository = hashlib.sha256(self.root.uri.encode()).hexdigest()[:16]
        target = self._cache / repository / build.model_id / build.build_id
        return download(storage=self._storage, source=folder, files=files, target=target)

    def publish(
        self,
        folder: Path,
        *,
        model_id: str,
        build_id: str | None = None,
        clock: Callable[[], datetime] = _utc_now,
    ) -> Build:
        """Publish a folder as a build: atomically, and never replacing another.

        Args:
            folder: A folder with a ``model.toml`` and the code, or an MLflow model.
            model_id: The model.
            build_id: The new build's ID; defaults to the time and the content's hash.
            clock: Returns the time in UTC.

        Raises:
            ConfigurationError: An ID is malformed.
            InvalidBuildError: The folder is not a valid build; the message names the file and key.
            BuildExistsError: The ID is taken, or another publisher has claimed it.
            StorageError: The repository cannot be written.
        """
        if build_id:
            self._check_available(model_id, build_id)
        return publish_folder(
            folder, model_id=model_id, build_id=build_id, root=self.root, storage=self._storage, now=clock()
        )

    def deploy(
        self,
        model_id: str,
        build_id: str,
        *,
        pods: int | None = None,
        instance: str | None = None,
        purchase_option: str | None = None,
    ) -> Deployment:
        """Make a build live, for every execution that starts from now on.

        This replaces the previous deployment entirely: values not given here are unset.

        Raises:
            ConfigurationError: An ID is malformed, ``pods`` is below 1, or ``purchase_option`` is neither ``spot``
                nor ``on-demand``.
            ModelNotFoundError: The model is not in the repository.
            BuildNotFoundError: The model has no such build.
            InvalidBuildError: The build's ``model.toml`` is invalid.
        """
        check_id(model_id, field="model_id")
        deployment = Deployment.of(
            build_id=build_id, pods=pods, instance=instance, purchase_option=purchase_option
        )
        self._build(model_id, build_id)
        self._storage.write(self.root.join(f"{model_id}/{DEPLOYMENT_FILE}"), deployment.to_toml().encode())
        return deployment

    def models(self) -> list[ModelSummary]:
        """List every model that has a build, sorted by ID; hidden folders and unfinished builds are left out.

        Raises:
            InvalidBuildError: A ``deployment.toml`` is invalid.
        """
        builds = self._builds(self.root)
        return [
            ModelSummary(model_id, tuple(sorted(builds[model_id])), self._deployment(model_id))
            for model_id in sorted(builds)
        ]

    def model(self, model_id: str) -> ModelSummary:
        """Return one model.

        Raises:
            ConfigurationError: The ID is malformed.
            ModelNotFoundError: The model is not in the repository.
            InvalidBuildError: Its ``deployment.toml`` is invalid.
        """
        check_id(model_id, field="model_id")
        builds = self._builds(self.root.join(model_id)).get(model_id)
        if not builds:
            raise self._model_not_found(model_id)
        return ModelSummary(model_id, tuple(sorted(builds)), self._deployment(model_id))

    def _builds(self, folder: Location) -> dict[str, list[str]]:
        """Find the builds below a folder of the repository, by model."""
        top_files: dict[tuple[str, str], set[str]] = {}
        for info in self._storage.list(folder):
            match self.root.relative(info.location).split("/"):
                case [model_id, build_id, name] if _is_id(model_id) and _is_id(build_id):
                    top_files.setdefault((model_id, build_id), set()).add(name)
        found: dict[str, list[str]] = {}
        for (model_id, build_id), names in top_files.items():
            if is_build(names):
                found.setdefault(model_id, []).append(build_id)
        return found

    def _folder(self, model_id: str, build_id: str) -> Location:
        check_id(model_id, field="model_id")
        check_build_id(build_id)
        return self.root.join(f"{model_id}/{build_id}")

    def _files(self, folder: Location) -> dict[str, ObjectInfo]:
        listed = {folder.relative(info.location): info for info in self._storage.list(folder)}
        # Bucket consoles mark folders with empty objects whose names end in a slash.
        return {name: info for name, info in listed.items() if name and not info.location.key.endswith("/")}

    def _deployment(self, model_id: str) -> Deployment | None:
        file = self.root.join(f"{model_id}/{DEPLOYMENT_FILE}")
        try:
            data = self._storage.read(file)
        except ObjectNotFoundError:
            return None
        return Deployment.parse(data, source=file.uri)

    def _build(self, model_id: str, build_id: str) -> Build:
        folder = self._folder(model_id, build_id)
        names = self._files(folder)
        if not is_build(names):
            raise self._build_not_found(model_id, build_id)
        model_file = folder.join(MODEL_FILE)
        return read_build(
            model_id=model_id,
            build_id=build_id,
            location=folder,
            model_toml=self._storage.read(model_file) if MODEL_FILE in names else None,
            mlflow=MLFLOW_FILE in names,
            source=model_file.uri,
        )

    def _model_not_found(self, model_id: str) -> ModelNotFoundError:
        known = sorted(self._builds(self.root))
        return ModelNotFoundError(
            f"model_id: model {model_id!r} not found in {self.root.uri}. {_hint(model_id, known, 'models')}",
            model_id=model_id,
        )

    def _build_not_found(self, model_id: str, build_id: str) -> BuildNotFoundError | ModelNotFoundError:
        known = sorted(self._builds(self.root.join(model_id)).get(model_id, ()))
        folder = self._folder(model_id, build_id)
        names = self._files(folder)
        if CLAIM_FILE in names:
            reason = f"It is being published to {folder.uri}, or its publishing was interrupted."
        elif names:
            reason = f"{folder.uri} contains neither {MODEL_FILE} nor {MLFLOW_FILE}."
        elif known:
            reason = _hint(build_id, known, "builds")
        else:
            return self._model_not_found(model_id)
        return BuildNotFoundError(
            f"build_id: model {model_id!r} has no build {build_id!r}. {reason}",
            model_id=model_id,
            build_id=build_id,
        )

    def _check_available(self, model_id: str, build_id: str) -> None:
        """Fail early, before anything is copied, if the build ID is taken."""
        names = self._files(self._folder(model_id, build_id))
        if names and CLAIM_FILE not in names:
            raise BuildExistsError(
                f"{self._folder(model_id, build_id).uri} already exists. Builds are immutable: choose another build "
                f"ID, or omit it.",
                model_id=model_id,
                build_id=build_id,
            )


def _is_id(name: str) -> bool:
    try:
        check_id(name, field="id")
    except ConfigurationError:
        return False
    return True


def _hint(name: str, known: list[str], kind: str) -> str:
    if not known:
        return f"It contains no {kind}."
    import difflib  # noqa: PLC0415  only for the message

    close = difflib.get_close_matches(name, known, n=3)
    return f"Did you mean {_join(close)}?" if close else f"Available {kind}: {_join(known)}."


def _join(names: list[str] | tuple[str, ...]) -> str:
    max_names = 8
    rest = f" and {len(names) - max_names} more" if len(names) > max_names else ""
    return ", ".join(repr(name) for name in names[:max_names]) + rest
