"""Datum assembly as it is defined: grow one list a turn, or start the next."""

from __future__ import annotations

from tinsmith.domain.episodes import Episode

Token = tuple[int, int, bool, float, float, float, int]
"""token, turn, sampled, weight, logprob, advantage, policy version"""


def sequences(episode: Episode, advantage: float) -> list[list[Token]]:
    """The running sequences of an episode, before the shift by one."""
    out: list[list[Token]] = []
    for turn, t in enumerate(episode.transitions):
        if len(t.action) == 0:
            continue
        observation = t.observation.tolist()
        if not out or [token[0] for token in out[-1]] != observation[: len(out[-1])]:
            out.append([])
        running = out[-1]
        running += [(token, turn, False, 0.0, 0.0, 0.0, -1) for token in observation[len(running) :]]
        trained = not t.masked
        for token, logprob in zip(t.action.tolist(), t.logprobs.tolist(), strict=True):
            running.append((token, turn, True, float(trained), logprob, advantage * trained, t.policy_version))
    return out
