"""What the families' own libraries write, as `tools/record_oracles.py` has recorded it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cases import Case

FOLDER = Path(__file__).resolve().parents[1] / "data" / "oracles"
PACKAGES = {
    "tml_v0": "tml-renderers==0.2.1",
    **dict.fromkeys(("mistral_v3", "mistral_v7", "mistral_v11", "mistral_v13"), "mistral-common==1.13.1"),
    "kimi_tools": "renderers==0.1.12",
}


@cache
def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()[:16]


def neutral(case: Case) -> dict[str, Any]:
    """A case as JSON, for libraries with layouts of their own. `number`: the id of a call in Mistral's form."""
    messages = []
    count, waiting = 0, list[tuple[str | None, str]]()
    for m in case.messages:
        calls = []
        for c in m.tool_calls:
            calls.append({"id": c.id, "name": c.name, "arguments": c.arguments, "number": f"{count:09d}"})
            waiting.append((c.id, f"{count:09d}"))
            count += 1
        of = None
        if m.role == "tool" and waiting:
            of = next((w for w in waiting if w[0] == m.tool_call_id), waiting[0])
            waiting.remove(of)
        messages.append(
            {
                "role": m.role,
                "content": m.text,
                "thinking": m.thinking,
                "calls": calls,
                "name": m.name,
                "tool_call_id": m.tool_call_id,
                "number": of and of[1],
            }
        )
    functions = [t.definition.get("function", t.definition) for t in case.tools]
    tools = [
        {
            "type": "function",
            "function": {
                "name": f["name"],
                "description": f.get("description") or "",
                "parameters": f.get("parameters") or {},
            },
        }
        for f in functions
    ]
    return {"messages": messages, "tools": tools, "ask": case.ask}
