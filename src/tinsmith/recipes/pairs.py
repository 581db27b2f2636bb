"""What recipes on pairs of answers share: the sets, their options, and which rows are pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from attrs import frozen

from tinsmith.config import option
from tinsmith.domain.preference_rows import NoPreference, pair_from_row
from tinsmith.ports.data import Row
from tinsmith.recipes import small_sets
from tinsmith.recipes.sources import MixtureConfig, NamedSet

SETS: Mapping[str, NamedSet] = {
    "small": NamedSet(train=small_sets.PAIRS, test_size=200),
    "hhh": NamedSet(train="hf://Anthropic/hh-rlhf:train", test="hf://Anthropic/hh-rlhf:test", test_size=1024),
    "helpsteer3": NamedSet(
        train="hf://nvidia/HelpSteer3/preference:train", test="hf://nvidia/HelpSteer3/preference:validation"
    ),
    "ultrafeedback": NamedSet(train="hf://argilla/ultrafeedback-binarized-preferences:train", test_size=1024),
}


@frozen(kw_only=True)
class PairConfig(MixtureConfig):
    """Options of every recipe that learns from pairs."""

    data: tuple[str, ...] = option(
        ("small",), help="sources of pairs: small (made here), hhh, helpsteer3, ultrafeedback, files, URLs, hf://NAME"
    )
    batch_size: int = option(32, help="pairs an optimizer step", min=1)


def new_pairs(source: str) -> Callable[[Row, int], str | None]:
    """Why a row of `source` is no pair to learn from; None for one that is, and was not there before."""
    seen = set[bytes]()

    def why_not(row: Row, line: int) -> str | None:
        try:
            pair = pair_from_row(row, source=source, line=line)
        except NoPreference as error:
            return f"have answers that {error.why}"
        digest = hashlib.blake2b(repr(pair).encode(), digest_size=16).digest()
        if digest in seen:
            return "are there before"
        seen.add(digest)
        return None

    return why_not
