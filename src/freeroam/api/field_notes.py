"""What a class says of its fields, put where the pages of the description show it: beside each field."""

from __future__ import annotations

import re
from typing import Any

_HEADING = "\n\nAttributes:\n"
_NOTE = re.compile(r"^ {4}(\w+): ((?:.|\n {8})+)$", re.MULTILINE)


def move_notes(schema: dict[str, Any]) -> None:
    """Take the notes on fields out of the descriptions of the documents, and give each to its field."""
    for document in schema["components"]["schemas"].values():
        text, heading, notes = document.get("description", "").partition(_HEADING)
        if not heading:
            continue
        document["description"] = text
        fields = document.get("properties", {})
        for name, note in _NOTE.findall(notes):
            if name in fields:
                fields[name].setdefault("description", " ".join(note.split()))
