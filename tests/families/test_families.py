"""Every format beside its family's template: equal, or different for a known reason; and docs/renderers.md says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cases import CASES
from family_compare import BEGIN, Family, marks, outcome, real_chats
from family_tokenizers import Unavailable, family_tokenizer
from oracles import recorded
from table import Chats, document, real_conversations, told_chats

from families import FAMILIES
from tinsmith import rendering

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "renderers.md"


def templates_of(family: Family, shared: Path) -> Path:
    try:
        family_tokenizer(family.tokenizer)
    except Unavailable as error:
        pytest.skip(f"no tokenizer {family.tokenizer}: {error}")
    return shared / "data" / "chat_templates"


def each() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("family", FAMILIES, ids=[f"{i}-{f.format}" for i, f in enumerate(FAMILIES)])


@each()
def test_tokens_equal_the_template_or_differ_for_a_known_reason(family: Family, shared: Path) -> None:
    templates = templates_of(family, shared)
    for name, case in CASES.items():
        found = outcome(family, case, templates)
        if not found.equal:
            assert family.reason(name), f"{name}: an unknown difference\n{found.ours!r}\n{found.theirs!r}"
        elif name in family.differs:
            pytest.fail(f"{name}: equal, so the reason given for a difference is wrong")
        assert BEGIN not in found.theirs


@each()
def test_trained_tokens_are_those_that_the_training_template_marks(family: Family, shared: Path) -> None:
    if family.training is None:
        pytest.skip("no training twin")
    found = marks(family, templates_of(family, shared))
    assert (found.more, found.less) == (frozenset(family.marks_more), frozenset(family.marks_less))
    assert found.compared >= 2


@each()
def test_real_conversations_equal_or_differ_for_a_known_reason(family: Family, shared: Path) -> None:
    templates = templates_of(family, shared)
    found = real_chats(family, real_conversations(templates.parent / "chat"), templates)
    assert not found.unknown
    assert bool(found.explained) == bool(family.chats)
    told = told_chats(DOCUMENT.read_text(encoding="utf-8"))[FAMILIES.index(family)]
    assert Chats.of(found) == told, "run: make renderers"


def test_the_document_is_current(shared: Path) -> None:
    for family in FAMILIES:
        templates = templates_of(family, shared)
    text = DOCUMENT.read_text(encoding="utf-8")
    # What it tells of real conversations is held to them above, family by family.
    assert text == document(FAMILIES, templates, told_chats(text)), "run: make renderers"


def test_what_the_library_trains_is_trained() -> None:
    """tml-renderers tells weights too: all of an answer, its author's token and its end included."""
    renderer = rendering.get("tml_v0", family_tokenizer("inkling"))
    compared = 0
    for name, found in recorded("tml_v0")["cases"].items():
        if "trained" in found:
            rendered = renderer.render(CASES[name].messages, CASES[name].tools)
            answers = [i for i, m in enumerate(CASES[name].messages) if m.role == "assistant"]
            ours = np.flatnonzero(rendered.is_output & np.isin(rendered.message, answers))
            assert ours.tolist() == found["trained"], name
            compared += 1
    assert compared >= 10
