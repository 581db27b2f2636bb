"""Learning from preference pairs: as two answers to compare, or as comparisons for a judge to label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from attrs import evolve, frozen

from tinsmith.domain.comparisons import labelled
from tinsmith.domain.datums import Batch, Datum
from tinsmith.domain.errors import DataError, NonFiniteError, RenderError
from tinsmith.domain.messages import Conversation
from tinsmith.domain.preference_rows import pair_from_row
from tinsmith.domain.preferences import PairLoss, PairLossName, pair_loss, pair_metrics
from tinsmith.ports.pending import Pending
from tinsmith.ports.trainer import Trainer, TrainResult
from tinsmith.rendering import Renderer, TooLong, TrainOn
from tinsmith.workflows.chat_examples import Drawn, Example, LeftOut, Place, TooLongPolicy, taken_from
from tinsmith.workflows.evaluation import EVAL_ROWS, NllObjective, in_batches
from tinsmith.workflows.reference import Reference
from tinsmith.workflows.waiting import wait

EQUAL = LeftOut("have two answers that are equal")


@frozen(kw_only=True)
class PairExamples:
    """Makes of each row two datums, the chosen answer's and the rejected one's, each trained on its last message."""

    renderer: Renderer
    max_length: int
    too_long: TooLongPolicy = "truncate"

    def __call__(self, places: Sequence[Place]) -> list[Drawn]:
        """Raises DataError, with file and line, for a row that cannot be read or rendered."""
        sides: list[Conversation] = []
        for place in places:
            pair = pair_from_row(place.row, source=place.source, line=place.line)
            for answer in (pair.chosen, pair.rejected):
                sides.append(Conversation((*pair.prompt.messages, *answer), pair.prompt.tools))
        rendered = self.renderer.supervised_batch(
            sides,
            train_on=TrainOn.LAST_ASSISTANT_MESSAGE,
            max_length=self.max_length,
            overlong="truncate" if self.too_long == "truncate" else "refuse",
        )
        out: list[Drawn] = []
        for place, chosen, rejected in zip(places, rendered[0::2], rendered[1::2], strict=True):
            datums: list[Datum] = []
            left_out: LeftOut | None = None
            cut = 0
            for side in (chosen, rejected):
                taken = taken_from(side, place, self.max_length, self.too_long)
                if isinstance(taken, LeftOut):
                    left_out = taken
                else:
                    datums += taken.datums
                    cut += taken.truncated
            if left_out is None and len(datums) == 2 and _same(*datums):
                left_out = EQUAL  # what tells them apart lies beyond the cut
            out.append(left_out or Example(tuple(datums), cut))
        return out


def _same(one: Datum, other: Datum) -> bool:
    return all(getattr(one, c).tobytes() == getattr(other, c).tobytes() for c in ("tokens", "targets", "weights"))


@frozen(kw_only=True)
class JudgeExamples:
    """Makes of each row two datums, its comparison in both orders, of which the label's one token is trained."""

    renderer: Renderer
    max_length: int
    too_long: Literal["skip", "raise"] = "skip"
    """A comparison that is cut has lost its label."""

    def __call__(self, places: Sequence[Place]) -> list[Drawn]:
        """Raises DataError, with file and line, for a row that cannot be read or rendered."""
        pairs = [pair_from_row(place.row, source=place.source, line=place.line) for place in places]
        rendered = self.renderer.supervised_batch(
            [conversation for pair in pairs for conversation in labelled(pair)],
            train_on=TrainOn.LAST_ASSISTANT_MESSAGE,
            max_length=self.max_length,
        )
        out: list[Drawn] = []
        for place, *ways in zip(places, rendered[0::2], rendered[1::2], strict=True):
            failed = next((way for way in ways if isinstance(way, RenderError)), None)
            if isinstance(failed, TooLong) and self.too_long == "skip":
                out.append(LeftOut(f"are longer than {self.max_length} tokens"))
            elif failed is not None:
                raise DataError(str(failed), source=place.source, line=place.line) from failed
            else:
                out.append(Example(tuple(_label_alone(way[0]) for way in ways if not isinstance(way, RenderError))))
        return out


def _label_alone(datum: Datum) -> Datum:
    """The datum up to its first trained token."""
    length = int(np.argmax(datum.weights > 0)) + 1
    columns = {name: getattr(datum, name)[:length] for name in ("tokens", "targets", "weights", "message")}
    return Datum(**columns)


class LabelObjective(NllObjective):
    """The likelihood of labels: `train_mean_nll`, and `accuracy`, the share of labels that have a probability above a
    half; below `test/` both of test data."""

    def _measure(
        self, batches: Sequence[Batch], results: Sequence[TrainResult], nll_name: str, bpb_name: str
    ) -> dict[str, float]:
        values = super()._measure(batches, results, nll_name, bpb_name)
        values.pop(bpb_name, None)
        labels = np.concatenate([r.logprobs[b.weights > 0] for b, r in zip(batches, results, strict=True)])
        prefix = "test/" if nll_name.startswith("test/") else ""
        return {**values, f"{prefix}accuracy": float((labels > math.log(0.5)).mean())}


class PreferenceObjective:
    """Direct preference optimisation against a reference: `dpo_loss`, `accuracy`, `margin`, `chosen_reward`,
    `rejected_reward`, `likelier`, `num_pairs` (see `pair_metrics`), and the same of test pairs below `test/`.

    A batch goes as a forward pass, the loss here, and a backward pass with its gradient, so that it runs on every
    backend; meanwhile the reference scores the same batch, each pair once.
    """

    def __init__(
        self,
        reference: Reference,
        name: PairLossName = "dpo",
        *,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        test: Sequence[Datum] = (),
        timeout_s: float,
    ) -> None:
        """test: datums in pairs, the chosen answer's first."""
        self._reference = reference
        self._name = name
        self._beta = beta
        self._label_smoothing = label_smoothing
        self._timeout_s = timeout_s
        self._test = in_batches(test, EVAL_ROWS - EVAL_ROWS % 2)
        self._test_reference: list[Batch] = []
        """The test batches with the reference's logprobs, once they are needed."""

    def submit(self, trainer: Trainer, batch: Batch, sources: Sequence[int] = ()) -> Pending[TrainResult]:
        forward = trainer.forward(batch)
        scored = self._scored(batch)
        loss = self._loss(scored, wait(forward, "the forward pass", self._timeout_s))
        if not math.isfinite(loss.value):
            raise NonFiniteError(f"the loss is {loss.value}")
        backward = trainer.backward(batch, loss.gradient)
        return backward.then(lambda done: evolve(done, loss=loss.value, metrics=pair_metrics([loss])))

    def metrics(self, batch: Batch, result: TrainResult) -> Mapping[str, float]:
        return result.metrics

    def submit_evaluation(self, trainer: Trainer) -> Sequence[Pending[TrainResult]]:
        submitted = [trainer.forward(batch) for batch in self._test]
        if not self._test_reference:
            self._test_reference = [self._scored(batch) for batch in self._test]
        return submitted

    def evaluation(self, submitted: Sequence[Pending[TrainResult]], timeout_s: float) -> Mapping[str, float]:
        if not submitted:
            return {}
        results = [wait(pending, "the evaluation", timeout_s) for pending in submitted]
        parts = [self._loss(batch, result) for batch, result in zip(self._test_reference, results, strict=True)]
        return {f"test/{name}": value for name, value in pair_metrics(parts).items()}

    def _scored(self, batch: Batch) -> Batch:
        return evolve(batch, reference_logprobs=self._reference.score(batch))

    def _loss(self, batch: Batch, result: TrainResult) -> PairLoss:
        return pair_loss(batch, result.logprobs, self._name, beta=self._beta, label_smoothing=self._label_smoothing)
