"""What Airflow shows of a mapped task in place of its map index."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["label_map_index"]


def label_map_index(context: Context, label: str) -> None:
    """Show a label, unless the author of the DAG has a template; it finds the label as ``{{ file }}``.

    Airflow reads the template of the mapped operator, which does not have the defaults of an operator's class, so that
    one of its own would never be used.
    """
    context["file"] = label  # type: ignore[typeddict-unknown-key]  # a key of ours
    is_mapped = context["ti"].map_index not in {None, -1}
    if is_mapped and context["map_index_template"] is None:
        context["map_index_template"] = "{{ file }}"
