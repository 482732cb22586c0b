"""What Airflow is told of this package, through the entry point ``apache_airflow_provider``."""

from __future__ import annotations

from typing import Any

__all__ = ["get_provider_info"]

_HOOK = "airflow_batchexec.hooks.batch_execution.BatchExecutionHook"


def _option(description: str, *, default: str = "", example: str = "") -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "string",
        "example": example or None,
        "default": default,
    }


def get_provider_info() -> dict[str, Any]:
    """The provider's description."""
    return {
        "package-name": "airflow-provider-batchexec",
        "name": "Batch Execution",
        "description": "Storage-based batch inference: one mapped task per file, one model load per pod.",
        "integrations": [
            {
                "integration-name": "Batch Execution",
                "external-doc-url": "https://pypi.org/project/airflow-provider-batchexec/",
                "tags": ["service"],
            }
        ],
        "operators": [
            {
                "integration-name": "Batch Execution",
                "python-modules": [
                    "airflow_batchexec.operators.plan_execution",
                    "airflow_batchexec.operators.predict_file",
                    "airflow_batchexec.operators.finish_execution",
                ],
            }
        ],
        "hooks": [
            {
                "integration-name": "Batch Execution",
                "python-modules": ["airflow_batchexec.hooks.batch_execution"],
            }
        ],
        "connection-types": [{"connection-type": "batch_execution", "hook-class-name": _HOOK}],
        "config": {
            "batchexec": {
                "description": "How batch executions run in this deployment.",
                "options": {
                    "model_repository": _option(
                        "The folder or URI that builds lie in.", example="s3://models/repository"
                    ),
                    "allowed_locations": _option(
                        "URI prefixes that executions may read and write, separated by commas. Empty: every bucket "
                        "that the credentials reach, and no folder on disk.",
                        example="s3://flights,file:///data",
                    ),
                    "deployment_name": _option(
                        "What tells this Airflow from others that write to the same destinations: it stands in the "
                        "locks of executions. Empty: [api] base_url.",
                        example="production",
                    ),
                    "instances": _option(
                        "More instances, or others of the same name, as JSON.",
                        example='{"mine": {"cpus": 1, "memory_gib": 3}}',
                    ),
                    "load_timeout": _option("Seconds that a pod may take to load its build.", default="1800"),
                    "scratch_folder": _option(
                        "Where pods and fetched files are put. Empty: the system's temporary folder.",
                        example="/scratch",
                    ),
                    "build_cache": _option(
                        "Where builds from a bucket are kept on each machine. Empty: ~/.cache/batchexec/builds.",
                        example="/var/cache/batchexec",
                    ),
                },
            }
        },
    }
