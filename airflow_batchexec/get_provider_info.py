"""Describes this package to Airflow; the entry point ``apache_airflow_provider``."""

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
    """A field of the connection form; Airflow shows its examples as suggestions."""
    return {
        "label": label,
        "description": description,
        "schema": {"type": ["string", "null"], "examples": [example], **schema},
    }


def _connection_fields() -> dict[str, dict[str, Any]]:
    """The connection's extras, which the hook reads with ``ConnectionExtra``."""
    return {
        "region_name": _field(
            "Region",
            "The buckets' region. If it is empty or a bucket is elsewhere, the bucket's region is detected.",
            example="eu-central-1",
        ),
        "endpoint_url": _field(
            "S3 endpoint", "The URL of an S3 server other than AWS.", example="https://s3.example.com"
        ),
        "sts_endpoint_url": _field(
            "STS endpoint",
            "The URL of the STS that roles are assumed at. Empty: the S3 endpoint, else AWS.",
            example="https://sts.eu-central-1.amazonaws.com",
        ),
        "aws_conn_id": _field(
            "AWS connection",
            "The id of an Amazon Web Services connection that provides the credentials. Empty: boto3's default chain. "
            "Keys named by an execution take precedence over both.",
            example="aws_default",
        ),
        "iam_role_arn": _field(
            "IAM role ARN",
            "The role to assume with these credentials, unless an execution names another one.",
            example="arn:aws:iam::123456789012:role/batch",
        ),
        "external_id": _field(
            "External ID",
            "The sts:ExternalId that the role's trust policy requires.",
            example="batchexec-production",
        ),
        "role_session_name": _field(
            "Role session name",
            "The name of the role's sessions in CloudTrail.",
            example="airflow-batchexec",
        ),
        "role_duration_seconds": {
            "label": "Role duration",
            "description": "Lifetime of the role's keys in seconds, 900 to 43200; they are renewed in time. Empty: 3600.",
            "schema": {"type": ["integer", "null"], "minimum": 900, "maximum": 43_200},
        },
        "web_identity_token_file": _field(
            "Web identity token file",
            "The path, on every worker, of a file with an OIDC token. If set, roles are assumed by "
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
    """The provider's metadata, in Airflow's format."""
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
                # Airflow 3.3 reads the form's fields from here; it no longer asks the hook.
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
        # Airflow loads the plugin through its entry point; this entry only makes it appear in provider listings.
        "plugins": [{"name": "batchexec", "plugin-class": "airflow_batchexec.plugin.BatchExecPlugin"}],
        "cli": ["airflow_batchexec.airflow_commands.get_commands"],
        "config": {
            "batchexec": {
                "description": "How batch executions run in this deployment.",
                "options": {
                    "model_repository": _option(
                        "The folder or URI of the model repository.", example="s3://models/repository"
                    ),
                    "allowed_locations": _option(
                        "Comma-separated URI prefixes that executions may read and write. Empty: every bucket that "
                        "the credentials can access, and no folder on disk.",
                        example="s3://flights,file:///data",
                    ),
                    "deployment_name": _option(
                        "Distinguishes this Airflow from others that write to the same destinations; it is recorded "
                        "in the locks of executions. Empty: [api] base_url.",
                        example="production",
                    ),
                    "execution_dags": _option(
                        "Comma-separated DAGs whose runs the REST API serves as executions. It starts runs of the "
                        "first.",
                        default="batch_execution",
                        example="batch_execution,batch_execution_gpu",
                    ),
                    "instances": _option(
                        "Additional instances, or redefinitions of existing ones, as JSON.",
                        example='{"mine": {"cpus": 1, "memory_gib": 3}}',
                    ),
                    "placement": _option(
                        "Which machines an instance, a GPU type or a purchase option maps to: a JSON list of rules "
                        "with conditions (instance, gpu_type, purchase_option) and the placement to apply (queue, "
                        "nodeSelector, tolerations, affinity, resources).",
                        example='[{"purchase_option": "spot", "nodeSelector": {"karpenter.sh/capacity-type": "spot"}}]',
                    ),
                    "purchase_option": _option(
                        "spot or on-demand, if neither the request nor the deployment sets one. Empty: neither.",
                        example="spot",
                    ),
                    "task_memory": _option(
                        "MiB that a Kubernetes pod gets for the task's own processes, on top of its instance's memory.",
                        default="512",
                    ),
                    "gpu_resource": _option(
                        "The Kubernetes resource name of a GPU.", default="nvidia.com/gpu"
                    ),
                    "load_timeout": _option(
                        "The maximum time in seconds for a pod to load its build.", default="1800"
                    ),
                    "scratch_folder": _option(
                        "The folder for pods, fetched files and temporary databases. It must exist on all workers. Empty: the "
                        "system's temporary folder.",
                        example="/scratch",
                    ),
                    "pod_idle_timeout_seconds": _option(
                        "The tasks of an execution on one machine share pods. A pod ends when no task has used it for "
                        "this many seconds, or with its execution. 0: every task starts its own pod.",
                        default="60",
                    ),
                    "machine_cpus": _option(
                        "The number of CPUs that the pods on a machine may have together. Empty: all.",
                        example="14",
                    ),
                    "machine_memory": _option(
                        "The memory that the pods on a machine may have together, in MiB. Empty: all.",
                        example="60000",
                    ),
                    "build_cache": _option(
                        "The folder to cache builds from a bucket in, on each machine. Empty: ~/.cache/batchexec/builds.",
                        example="/var/cache/batchexec",
                    ),
                },
            }
        },
    }
