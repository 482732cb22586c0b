"""The parameter table of the README, generated from the configuration so that the two cannot diverge.

``python -m airflow_batchexec.cli.parameter_table README.md`` rewrites the table between its two markers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from airflow_batchexec.cli.parameter_flags import flag_for
from airflow_batchexec.engine.config.sections import FlatField, flat_fields

__all__ = ["BEGIN", "COMMAND", "END", "parameter_table", "with_parameter_table"]

BEGIN = "<!-- parameters:begin -->"
END = "<!-- parameters:end -->"
COMMAND = f"python -m {__spec__.name} README.md"
"""Rewrites the README's table."""


def parameter_table() -> str:
    """Return the table as GitHub Markdown. Columns: title, flag and conf name, description, default."""
    rows = [
        ("Parameter", "CLI flag, conf name", "Description", "Default"),
        ("---", "---", "---", "---"),
        *(
            (_title(field), f"`{flag_for(name)}`, `{name}`", field.schema["description"], _default(field))
            for name, field in flat_fields().items()
        ),
    ]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def with_parameter_table(text: str) -> str:
    """Return the document with an updated table between the markers.

    Raises:
        ValueError: The markers are missing or in the wrong order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The document has no {BEGIN} followed by {END}.")
    return f"{before}{BEGIN}\n{parameter_table()}{END}{after}"


def _title(field: FlatField) -> str:
    title: str = field.schema["title"]
    return f"{title} (required)" if field.required else title


def _default(field: FlatField) -> str:
    unset: str | None = field.schema.get("unset")
    if unset or field.required or not field.default:
        return unset or ""
    return str(getattr(field.default, "value", field.default))


def _main(path: Path) -> None:
    path.write_text(with_parameter_table(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
