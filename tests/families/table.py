"""docs/renderers.md, from what compare.py finds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import frozen
from cases import CASES
from family_compare import Family, RealChats, marks, outcome

from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.messages import Conversation

_HEAD = """# Formats beside the families' own templates

Made by `make renderers`; a test holds it to the code. Each format renders each case, and so does the chat template of
its family, with the same tokenizer; token ids are compared, not text. **=** equal; **n** different, for the reason of
that number below; **∅** both refuse. *trained*: whether the tokens that are trained are those that the family's
training template marks with `{% generation %}`. *chats*: of all real conversations at hand (500 chats, 300 with tools,
50 of reasoning with tools), finished, how many are equal, equal but for text that spells a control token, different for
the reason of that number, and refused by one side at least.

Text that spells a control token stays text here; a template's text makes a control token of it, in the mouth of
whoever wrote it. Each of these conversations was found equal once text was allowed to write control tokens.

Two families have no template that says all: Mistral and Inkling are compared with the tokens that their libraries give,
recorded by `make oracles`. Of Mistral's vocabularies only the kind "tekken" is tried. For `qwen3_vl` with thinking no
template is at hand: its chat form is that of `qwen3`, its images those of `qwen3_vl_instruct`, both proven below.
`smollm2` is held to the template in its own GGUF file by `tests/families/test_smollm2.py`; `chatml` and
`role_colon` are of no family.

Tokenizers are the families' own, but for those called `small_…`: no package carries these, so a small one with the same
control tokens stands in.
"""


@frozen
class Chats:
    """How many of all real conversations."""

    equal: int
    spelled: int
    explained: int
    refused: int
    unknown: int = 0

    @classmethod
    def of(cls, found: RealChats) -> Chats:
        refused = len({*found.ours_refused, *found.theirs_refused})
        return cls(found.equal, len(found.spelled), len(found.explained), refused, len(found.unknown))


def told_chats(text: str) -> list[Chats]:
    """What the document says of each family, in order."""
    cells = re.findall(r"\| (\d+) / (\d+) / (\d+)(?: \([^)]*\))? / (\d+) \|$", text, re.MULTILINE)
    return [Chats(*map(int, cell)) for cell in cells]


def document(families: Sequence[Family], templates: Path, chats: Sequence[Chats]) -> str:
    """`chats`: of each family."""
    reasons: list[str] = []

    def note(text: str) -> str:
        if text not in reasons:
            reasons.append(text)
        return str(reasons.index(text) + 1)

    rows = [_row(family, templates, found, note) for family, found in zip(families, chats, strict=True)]
    head = ["format", "template", "tokenizer", *CASES, "trained", "chats"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"{i}. {text}." for i, text in enumerate(reasons, 1)]
    return "\n".join([_HEAD, *lines, "", "## Differences", "", *notes, "", *_cases()]) + "\n"


def _row(family: Family, templates: Path, found_chats: Chats, note: Callable[[str], str]) -> list[str]:
    cells = []
    for name, case in CASES.items():
        found = outcome(family, case, templates)
        if found.equal:
            cells.append("∅" if found.ours.startswith("refused: ") else "=")
        else:
            cells.append(note(family.reason(name) or f"NOT EXPLAINED ({family.format}, {name})"))
    trained = ""
    if family.training is not None:
        found_marks = marks(family, templates)
        same = not found_marks.more and not found_marks.less
        trained = "=" if same else note(family.why or f"NOT EXPLAINED ({family.format}, trained)")
    why = f" ({', '.join(map(note, family.chats))})" if found_chats.explained else ""
    chats = f"{found_chats.equal} / {found_chats.spelled} / {found_chats.explained}{why} / {found_chats.refused}"
    if found_chats.unknown:
        chats += f" NOT EXPLAINED: {found_chats.unknown}"
    repairs = "".join(
        f", `{right}` for `{wrong}`" if right else f", without `{wrong}`" for wrong, right in family.repairs
    )
    variables = "".join(f", `{k}={v}`" for k, v in family.variables.items())
    return [
        f"`{family.format}`",
        f"{family.template}{variables}{repairs}",
        family.tokenizer,
        *cells,
        trained,
        chats,
    ]


def _cases() -> list[str]:
    lines = ["## Cases", ""]
    for name, case in CASES.items():
        roles = ", ".join(
            m.role
            + (" (thinking)" if m.thinking else "")
            + (f" ({len(m.tool_calls)} call{'s' * (len(m.tool_calls) > 1)})" if m.tool_calls else "")
            for m in case.messages
        )
        kind = "prompt" if case.ask else "whole"
        tools = f"; {len(case.tools)} tool{'s' * (len(case.tools) > 1)}" if case.tools else ""
        lines.append(f"- {name}: {kind}, {roles}{tools}{'; prefill' if case.prefill else ''}")
    return lines


def real_conversations(folder: Path) -> list[Conversation]:
    rows = []
    for name in ("v1_sft_demo.jsonl", "glaive_toolcall_en_demo.json", "reason_tool_use_demo_50.jsonl"):
        text = (folder / name).read_text(encoding="utf-8")
        rows += json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    return [conversation_from_row(row) for row in rows]
