"""The peer of `assembly.py`: tinker-cookbook's assemble_training_data. Runs in an environment that has it.

Reads a number of turns a line, assembles the same groups once, writes `tokens seconds` a line.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import tinker
from tinker_cookbook.completers import TokensWithLogprobs
from tinker_cookbook.rl.data_processing import assemble_training_data, compute_advantages
from tinker_cookbook.rl.types import Trajectory, TrajectoryGroup, Transition


def make_groups(turns: int, groups: int = 16, size: int = 8, tokens: int = 1000) -> list[TrajectoryGroup]:
    rng, half, made = np.random.default_rng(0), tokens // turns // 2, []
    for _ in range(groups):
        members = []
        for _ in range(size):
            running: list[int] = []
            steps = []
            for turn in range(turns):
                observation = running + rng.integers(0, 50_000, half).tolist()
                action = rng.integers(0, 50_000, half).tolist()
                sampled = TokensWithLogprobs(tokens=action, maybe_logprobs=(-rng.random(half)).tolist())
                prompt = tinker.ModelInput.from_ints(observation)
                steps.append(Transition(ob=prompt, ac=sampled, reward=0.0, episode_done=turn == turns - 1))
                running = observation + action
            members.append(Trajectory(transitions=steps, final_ob=tinker.ModelInput.from_ints([])))
        rewards = [float(g % 2) for g in range(size)]
        made.append(TrajectoryGroup(trajectories_G=members, final_rewards_G=rewards, metrics_G=[{}] * size))
    return made


cases = {turns: make_groups(turns) for turns in (1, 10)}
for line in sys.stdin:
    groups = cases[int(line)]
    advantages = compute_advantages(groups)
    began = time.perf_counter()
    datums, _ = assemble_training_data(groups, advantages)
    seconds = time.perf_counter() - began
    print(sum(d.model_input.length for d in datums), seconds, flush=True)
