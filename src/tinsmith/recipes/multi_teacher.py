"""multi-teacher-distillation: `on-policy-distillation` with a source and a teacher more."""

from __future__ import annotations

from attrs import frozen

from tinsmith.config import option
from tinsmith.ports.progress import Progress
from tinsmith.recipes import on_policy_distillation

NAME = "multi-teacher-distillation"

check = on_policy_distillation.check
environments = on_policy_distillation.environments


@frozen(kw_only=True)
class Config(on_policy_distillation.Config):
    data: tuple[str, ...] = option(
        ("arithmetic", "recite"), help="prompts, as of on-policy-distillation: sources with a teacher each"
    )
    weights: tuple[float, ...] = option(
        (1.0, 1.0), help="how often each source is drawn; none: as many prompts as each has", exclusive_min=0
    )
    max_tokens: int = option(40, help="tokens an attempt may sample", min=1)


def run(config: Config, progress: Progress) -> int:
    return on_policy_distillation.run(config, progress, NAME)
