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


def _field(label: str, description: str, *, example: str, **schema: Any) -> dict[str, Any]:
    """A field of the form; Airflow's form shows a field's examples as suggestions."""
    return {
        "label": label,
        "description": description,
        "schema": {"type": ["string", "null"], "examples": [example], **schema},
    }


def _connection_fields() -> dict[str, dict[str, Any]]:
    """The extras of a connection; the hook's ``ConnectionExtra`` reads them."""
    return {
        "region_name": _field(
            "Region",
            "The region of the buckets. A bucket's own is found where this is empty or another one.",
            example="eu-central-1",
        ),
        "endpoint_url": _field(
            "S3 endpoint", "The URL of an S3 server other than AWS.", example="https://s3.example.com"
        ),
        "sts_endpoint_url": _field(
            "STS endpoint",
            "The URL where roles are assumed. Empty: the S3 endpoint, else AWS.",
            example="https://sts.eu-central-1.amazonaws.com",
        ),
        "aws_conn_id": _field(
            "AWS connection",
            "The id of a connection of type Amazon Web Services that credentials come from. Empty: boto3's default "
            "chain. Keys that an execution names come before both.",
            example="aws_default",
        ),
        "iam_role_arn": _field(
            "IAM role ARN",
            "The role that is assumed with these credentials, unless an execution names another one.",
            example="arn:aws:iam::123456789012:role/batch",
        ),
        "external_id": _field(
            "External ID",
            "What the role's trust policy asks for in sts:ExternalId.",
            example="batchexec-production",
        ),
        "role_session_name": _field(
            "Role session name",
            "What CloudTrail calls whoever acts as the role.",
            example="airflow-batchexec",
        ),
        "role_duration_seconds": {
            "label": "Role duration",
            "description": "How many seconds the role's keys live, 900 to 43200; they are renewed in time. Empty: 3600.",
            "schema": {"type": ["integer", "null"], "minimum": 900, "maximum": 43_200},
        },
        "web_identity_token_file": _field(
            "Web identity token file",
            "The path, on every worker, of a file with an OIDC token. With it roles are assumed by "
            "AssumeRoleWithWebIdentity, and no other credentials are used.",
            example="/var/run/secrets/eks.amazonaws.com/serviceaccount/token",
        ),
        "gcs_endpoint_url": _field(
            "Google Cloud Storage endpoint",
            "The URL of a Google Cloud Storage server other than Google's.",
            example="http://localhost:4443",
        ),
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
                    "airflow_batchexec.operators.batch_execution",
                    "airflow_batchexec.operators.plan_execution",
                    "airflow_batchexec.operators.predict_file",
                    "airflow_batchexec.operators.predict_shard",
                    "airflow_batchexec.operators.finish_execution",
                ],
            }
        ],
        "sensors": [
            {
                "integration-name": "Batch Execution",
                "python-modules": ["airflow_batchexec.sensors.batch_execution"],
            }
        ],
        "triggers": [
            {
                "integration-name": "Batch Execution",
                "python-modules": ["airflow_batchexec.triggers.batch_execution"],
            }
        ],
        "hooks": [
            {
                "integration-name": "Batch Execution",
                "python-modules": ["airflow_batchexec.hooks.batch_execution"],
            }
        ],
        "connection-types": [
            {
                "connection-type": "batch_execution",
                "hook-class-name": _HOOK,
                "hook-name": "Batch Execution",
                # What a form's fields are, Airflow 3.3 reads here and no longer asks the hook.
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "schema", "login", "password", "port"],
                    "relabeling": {},
                    "placeholders": {},
                },
                "conn-fields": _connection_fields(),
            }
        ],
        "extra-links": [
            "airflow_batchexec.reporting.links.ExecutionLink",
            "airflow_batchexec.reporting.links.ResultsLink",
        ],
        # Airflow finds the plugin by its own entry point; this is for lists of what a provider brings.
        "plugins": [{"name": "batchexec", "plugin-class": "airflow_batchexec.plugin.BatchExecPlugin"}],
        "cli": ["airflow_batchexec.airflow_commands.get_commands"],
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
                    "execution_dags": _option(
                        "The DAGs whose runs the REST API serves as executions, separated by commas. It starts runs of "
                        "the first.",
                        default="batch_execution",
                        example="batch_execution,batch_execution_gpu",
                    ),
                    "instances": _option(
                        "More instances, or others of the same name, as JSON.",
                        example='{"mine": {"cpus": 1, "memory_gib": 3}}',
                    ),
                    "placement": _option(
                        "Which machines an instance, a GPU type or a purchase option stand for: a JSON list of rules "
                        "with conditions (instance, gpu_type, purchase_option) and what they ask for (queue, "
                        "nodeSelector, tolerations, affinity, resources).",
                        example='[{"purchase_option": "spot", "nodeSelector": {"karpenter.sh/capacity-type": "spot"}}]',
                    ),
                    "purchase_option": _option(
                        "spot or on-demand, where neither the request nor the deployment says. Empty: neither.",
                        example="spot",
                    ),
                    "task_memory": _option(
                        "MiB that a Kubernetes pod gets on top of its instance's memory, for the task's own processes.",
                        default="512",
                    ),
                    "gpu_resource": _option("What Kubernetes calls a GPU.", default="nvidia.com/gpu"),
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
