"""Parse the project's documents: fenced blocks, links and headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "DOCUMENTS",
    "README",
    "ROOT",
    "Block",
    "SetUp",
    "anchors",
    "blocks",
    "links",
    "needs_server",
    "set_up",
]

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCUMENTS = (README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(
    r"(?:^`(?P<file>[^`\n]+)`:\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_SET_UP = "Set up Airflow"
_START = "airflow standalone\n"


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        file: The file that the block shows: the name on the line above it, if that is only a name and a colon.
        language: The language after the opening fence.
        text: Its content.
        section: The heading above it.
    """

    file: str | None
    language: str
    text: str
    section: str


@dataclass(frozen=True)
class SetUp:
    """The README's blocks on setting up Airflow, in their order; between the last two it starts Airflow.

    Attributes:
        install: Installs the package.
        prepare: Configures Airflow, and puts a model, a DAG and a file into place.
        use: Starts an execution, shows its result, and adds a connection.
    """

    install: Block
    prepare: list[Block]
    use: list[Block]


def blocks(document: Path) -> list[Block]:
    """All fenced blocks, in order."""
    text = document.read_text("utf-8")
    return [
        Block(match["file"], match["language"], match["text"], _section(text[: match.start()]))
        for match in _BLOCK.finditer(text)
    ]


def set_up() -> SetUp:
    """The README's section on setting up Airflow.

    Raises:
        ValueError: It does not start Airflow.
    """
    install, *others = [block for block in blocks(README) if block.section == _SET_UP]
    start = [block.text for block in others].index(_START)
    return SetUp(install, others[:start], others[start + 1 :])


def needs_server(block: Block) -> bool:
    """Whether a block of shell commands or a program starts or follows executions on a server."""
    marks = {"sh": ("BATCHEXEC_SERVER", "--bucket"), "python": ("from airflow_batchexec.client",)}
    return any(mark in block.text for mark in marks.get(block.language, ()))


def links(document: Path) -> list[str]:
    """The targets of all links."""
    return _LINK.findall(_BLOCK.sub("", document.read_text("utf-8")))


def anchors(document: Path) -> set[str]:
    """The document's anchors, as GitHub derives them from the headings."""
    headings = _HEADING.findall(_BLOCK.sub("", document.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _section(before: str) -> str:
    headings = _HEADING.findall(_BLOCK.sub("", before))
    return headings[-1] if headings else ""
