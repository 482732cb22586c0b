"""The project's documents, taken apart: fenced blocks, links and headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCUMENTS", "ROOT", "Block", "anchors", "blocks", "links", "needs_server"]

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(
    r"(?:^`(?P<file>[^`\n]+)`:\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        file: The name on the line above it, where that is nothing but a name and a colon: the block is that file.
        language: What stands behind the fence.
        text: What is in it.
    """

    file: str | None
    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    """All fenced blocks, in their order."""
    found = _BLOCK.finditer(document.read_text("utf-8"))
    return [Block(match["file"], match["language"], match["text"]) for match in found]


def needs_server(block: Block) -> bool:
    """Whether it starts or follows executions on a server: a shell's commands, or a program."""
    marks = {"sh": ("BATCHEXEC_SERVER", "--bucket"), "python": ("from airflow_batchexec.client",)}
    return any(mark in block.text for mark in marks.get(block.language, ()))


def links(document: Path) -> list[str]:
    """The targets of all links."""
    return _LINK.findall(_BLOCK.sub("", document.read_text("utf-8")))


def anchors(document: Path) -> set[str]:
    """What a link can name in the document, as GitHub makes it of the headings."""
    headings = _HEADING.findall(_BLOCK.sub("", document.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
