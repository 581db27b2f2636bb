"""What teachers make of a student's samples, each of those of its own sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import evolve, frozen

from tinsmith.domain.datums import Batch
from tinsmith.domain.distillation import ReverseKL, reverse_kl
from tinsmith.domain.errors import TrainingError
from tinsmith.workflows.reference import Reference


@frozen(eq=False, kw_only=True)
class Teachers:
    """One teacher for each source of problems, by the first tag of a group."""

    of: Mapping[str, Reference]
    coef: float
    discount: float = 0.0

    def teach(self, batch: Batch, sources: Sequence[str]) -> tuple[Batch, dict[str, float]]:
        """The batch with the teachers' advantages added to its own, and metrics: `teacher_kl`, the mean over trained
        tokens of log(student / teacher) in nats, and the same of each source, `teacher_kl/SOURCE`. sources: of each
        row. A source without a teacher is a TrainingError."""
        assert batch.advantages is not None
        scores = np.zeros(batch.num_tokens, np.float32)
        for source in dict.fromkeys(sources):
            if source not in self.of:
                raise TrainingError(f"no teacher of {source!r}: there are teachers of {', '.join(self.of)}")
        # A teacher of several sources is asked once for all of its rows.
        for teacher in {id(t): t for t in self.of.values()}.values():
            rows = [i for i, source in enumerate(sources) if self.of[source] is teacher]
            if rows:
                places = np.concatenate([np.arange(batch.offsets[i], batch.offsets[i + 1]) for i in rows])
                scores[places] = teacher.score(batch[i] for i in rows)
        told = reverse_kl(batch, scores, coef=self.coef, discount=self.discount)
        taught = evolve(batch, advantages=batch.advantages + told.advantages, reference_logprobs=scores)
        return taught, _means(told, sources)


def _means(told: ReverseKL, sources: Sequence[str]) -> dict[str, float]:
    metrics = {"teacher_kl": float(told.sums.sum() / max(told.counts.sum(), 1))}
    for source in sorted(set(sources)):
        rows = np.array([s == source for s in sources])
        metrics[f"teacher_kl/{source}"] = float(told.sums[rows].sum() / max(told.counts[rows].sum(), 1))
    return metrics
