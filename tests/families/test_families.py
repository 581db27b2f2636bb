"""Every format beside its family's template: equal, or different for a known reason; and docs/renderers.md says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import CASES
from family_compare import BEGIN, Family, marks, outcome
from family_tokenizers import Unavailable, family_tokenizer
from table import document

from families import FAMILIES

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


def test_the_document_is_current(shared: Path) -> None:
    for family in FAMILIES:
        templates = templates_of(family, shared)
    assert DOCUMENT.read_text(encoding="utf-8") == document(FAMILIES, templates), "run: make renderers"
