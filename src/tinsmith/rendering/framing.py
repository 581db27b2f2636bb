"""Where a completion ends, for formats whose stop is a control token."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.records import Failure, FailureKind, Termination


@frozen(eq=False)
class Framed:
    body: Ints
    """The tokens before the stop."""
    termination: Termination
    failures: tuple[Failure, ...]


def frame(ids: Ints, tokenizer: Tokenizer, *, stop_ids: tuple[int, ...], allowed: tuple[int, ...] = ()) -> Framed:
    """Cut a completion at its first stop or end of text. Control tokens in the body must be among `allowed`."""
    ends = np.flatnonzero(np.isin(ids, (*stop_ids, *tokenizer.eos_ids)))
    end = int(ends[0]) if len(ends) else len(ids)
    body = ids[:end]
    failures = []
    if end == len(ids):
        termination = Termination.LENGTH
    else:
        termination = Termination.STOP if int(ids[end]) in stop_ids else Termination.EOS
    if end + 1 < len(ids):
        termination = Termination.MALFORMED
        failures.append(Failure(FailureKind.STRUCTURAL, f"{len(ids) - end - 1} tokens after the stop"))
    strays = np.isin(body, [i for i in tokenizer.special_tokens.values() if i not in allowed])
    if strays.any():
        termination = Termination.MALFORMED
        failures.append(Failure(FailureKind.STRUCTURAL, "a control token that has no place in a message"))
    return Framed(body, termination, tuple(failures))
