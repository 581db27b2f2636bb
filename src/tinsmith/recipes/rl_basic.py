"""rl-basic: reinforcement learning on sums, GSM8K or MATH: `math-rl` with the sets that one begins with."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from tinsmith.config import option
from tinsmith.ports.progress import Progress
from tinsmith.recipes import math_rl

NAME = "rl-basic"

check = math_rl.check
environments = math_rl.environments


@frozen(kw_only=True)
class Config(math_rl.Config):
    env: Literal["arithmetic", "gsm8k", "math"] = option("arithmetic", help="problems to learn from")


def run(config: Config, progress: Progress) -> int:
    return math_rl.run(config, progress, NAME)
