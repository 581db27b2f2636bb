"""The native encoder on the families' real vocabularies. The law: tests/spec/test_native_encoding.py."""

from __future__ import annotations

import pytest
from family_tokenizers import RECIPES, Unavailable, family_tokenizer
from hypothesis import example, given

from hostile_texts import hostile_texts
from tinsmith.adapters.huggingface.tokenizer import HuggingFaceTokenizer


def tokenizer(name: str) -> HuggingFaceTokenizer:
    try:
        return family_tokenizer(name)
    except Unavailable as error:
        return pytest.skip(f"no tokenizer {name}: {error}")


@pytest.mark.parametrize("name", RECIPES)
@given(text=hostile_texts())
@example("l'ſ d'ſ")
@example("//\U0001df76=a...123 ²\U00010348")
def test_ids_are_those_of_the_library(name: str, text: str) -> None:
    ours = tokenizer(name)
    assert ours._native is not None
    assert ours.encode(text).tolist() == ours._encode_slowly(text)[0].tolist()
