"""Datums from episodes, in one call for a whole batch of groups."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from tinsmith import _native
from tinsmith.domain.datums import Batch
from tinsmith.domain.episodes import Group
from tinsmith.domain.errors import ShapeError
from tinsmith.domain.tokens import Floats, Offsets, floats, offsets_of

_FIELDS = attrgetter("observation", "action", "logprobs", "masked", "policy_version")


@frozen(eq=False)
class Assembly:
    batch: Batch
    """D datums with every column; `message` holds the turn, from 0 in each episode."""
    group: Offsets
    """[D] int64: index of the group that each datum came from."""
    episode: Offsets
    """[D] int64: index of the episode within that group."""


def assemble(
    groups: Sequence[Group],
    advantages: Sequence[npt.ArrayLike],
    *,
    token_advantages: npt.ArrayLike | None = None,
) -> Assembly:
    """Datums of all episodes, in the order of groups, episodes and turns.

    Within an episode a turn joins the running datum when its observation begins with the whole of it, token for
    token, and otherwise starts the next. So every sampled token is the target of exactly one position, with the
    logprob that it was sampled with, the advantage of its episode, and weight 1 (0 if its transition is `masked`);
    observed tokens have weight, logprob and advantage 0. A turn that sampled nothing takes no part; an episode
    without any gives no datum.

    `advantages` has an array of one number per episode for each group, as `group_advantages` gives it;
    `token_advantages`, one number per sampled token over all actions in order, replaces them. NaN, infinities and an
    empty observation before an action are a ShapeError that names transition and index.
    """
    episodes = [e for group in groups for e in group.episodes]
    transitions = [t for e in episodes for t in e.transitions]
    sizes = [len(group.episodes) for group in groups]
    if [len(np.atleast_1d(a)) for a in advantages] != sizes:
        raise ShapeError(f"advantages of groups do not have the sizes of the groups, {sizes}")
    if transitions:
        observations, actions, logprobs, masked, versions = zip(*map(_FIELDS, transitions), strict=True)
    else:
        observations = actions = logprobs = masked = versions = ()
    per_token: Floats | None = None if token_advantages is None else floats(token_advantages)
    out = _native.assemble(
        observations,
        _joined(actions, np.int32),
        offsets_of(list(map(len, actions))),
        _joined(logprobs, np.float32),
        offsets_of([len(e.transitions) for e in episodes]),
        np.concatenate([np.asarray(a, np.float64) for a in advantages] or [np.zeros(0)]),
        per_token,
        np.array(masked, np.bool_),
        np.array(versions, np.int32),
    )
    batch = Batch(
        offsets=out["offsets"],
        tokens=out["tokens"],
        targets=out["targets"],
        weights=out["weights"],
        logprobs=out["logprobs"],
        advantages=out["advantages"],
        message=out["turns"],
        sampled=out["sampled"],
        policy_version=out["policy_versions"],
    )
    starts = offsets_of(sizes)
    flat = out["episodes"]
    group_of = np.searchsorted(starts, flat, side="right") - 1
    return Assembly(batch, group_of, flat - starts[group_of])


def _joined(rows: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.concatenate(rows) if rows else np.zeros(0, dtype)
