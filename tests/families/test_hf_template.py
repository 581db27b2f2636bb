"""Any chat template through `hf_template`: the tokens that the template's text has, with the families' tokenizers."""

from __future__ import annotations

from collections import Counter
from datetime import date as Date
from pathlib import Path

import pytest
from cases import CASES
from family_compare import whole
from family_tokenizers import Unavailable, family_tokenizer

from tinsmith import rendering
from tinsmith.domain.errors import RenderError
from tinsmith.rendering.templates import BEGIN, END, ChatTemplate

TOKENIZERS = {
    **dict.fromkeys(("qwen3_5", "qwen3_6", "qwen3_8", "Qwen3.5"), "qwen3_5"),
    **dict.fromkeys(("gptoss", "gpt-oss"), "gpt_oss"),
    **dict.fromkeys(("Kimi",), "kimi_k2"),
    **dict.fromkeys(("deepseek", "DeepSeek"), "deepseek_v3_1"),
    **dict.fromkeys(("nemotron", "NVIDIA"), "nemotron3"),
    "glm": "glm",
}


def test_every_template_gives_its_own_tokens(shared: Path) -> None:
    counts: Counter[str] = Counter()
    for file in sorted((shared / "data" / "chat_templates").rglob("*.jinja")):
        name = next((v for k, v in TOKENIZERS.items() if k in file.name), "qwen3")
        try:
            tokenizer = family_tokenizer(name)
        except Unavailable as error:
            pytest.skip(f"no tokenizer {name}: {error}")
        variables = {key: tokenizer.config.get(key) or "" for key in ("bos_token", "eos_token")}
        # Those of Llama have a date of their own for when none is given.
        date = None if "llama" in file.name.lower() else "2026-01-31"
        source = file.read_text()
        renderer = rendering.get("hf_template", tokenizer, template=source, variables=variables, date=date)
        template = ChatTemplate(source, variables, date=None if date is None else Date.fromisoformat(date))
        template.as_parts = renderer._template.as_parts
        for title, case in CASES.items():
            if case.prefill:  # encoded apart, because a model goes on from it
                continue
            try:
                if case.ask:
                    ours = renderer.generation_prompt(case.messages, tools=case.tools).ids.tolist()
                else:
                    ours = renderer.render(case.messages, case.tools).ids.tolist()
            except RenderError:
                counts["refused"] += 1
                continue
            text = template.render(case.messages, case.tools, ask=case.ask).replace(BEGIN, "").replace(END, "")
            theirs = whole(name).encode(text, add_special_tokens=False).ids
            assert ours == theirs, f"{file.name}, {title}"
            counts["equal"] += 1
    assert counts["equal"] > 1500
