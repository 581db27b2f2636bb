"""Each law of the sampler contract goes red for a sampler with the fault that it is about."""

import attrs
import numpy as np
import pytest
from faults import SmallTokenizer, laws_of, run_law

from tinsmith.domain.errors import TinsmithError
from tinsmith.domain.tokens import floats, ints
from tinsmith.ports.sampler import FinishReason
from tinsmith.testing import FakeSampler, FakeTrainer, backend
from tinsmith.testing.contracts import SamplerContract

TOKENIZER = SmallTokenizer()


class LogprobsAreTempered(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        got = super()._complete(prompt, params, index, cancelled)
        return attrs.evolve(got, logprobs=got.logprobs / (params.temperature or 1))


class PromptLogprobsAreShifted(FakeSampler):
    def _sample(self, prompt, params, n, cancelled):
        result = super()._sample(prompt, params, n, cancelled)
        if result.prompt_logprobs is None:
            return result
        return attrs.evolve(result, prompt_logprobs=np.roll(result.prompt_logprobs, 1))


class AlwaysGivesPromptLogprobs(FakeSampler):
    def _sample(self, prompt, params, n, cancelled):
        return super()._sample(prompt, attrs.evolve(params, prompt_logprobs=True), n, cancelled)


class TopIsUnsorted(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        got = super()._complete(prompt, params, index, cancelled)
        if got.top_ids is None:
            return got
        return attrs.evolve(got, top_ids=got.top_ids[:, ::-1], top_logprobs=got.top_logprobs[:, ::-1])


class TopIsCutShort(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        got = super()._complete(prompt, params, index, cancelled)
        if got.top_ids is None:
            return got
        return attrs.evolve(got, top_logprobs=got.top_logprobs - 0.01)


class PromptTableIsOfTheNextToken(FakeSampler):
    def _prompt_table(self, prompt, k):
        ids, logprobs = super()._prompt_table(prompt, k)
        return (ids, logprobs) if ids is None else (np.roll(ids, -1, axis=0), np.roll(logprobs, -1, axis=0))


class PromptTableIsUnsorted(FakeSampler):
    def _prompt_table(self, prompt, k):
        ids, logprobs = super()._prompt_table(prompt, k)
        return (ids, logprobs) if ids is None else (ids[:, ::-1], logprobs[:, ::-1])


class IgnoresTemperatureZero(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        return super()._complete(prompt, attrs.evolve(params, temperature=params.temperature or 1), index, cancelled)


class ForgetsThePrompt(FakeSampler):
    """Reads the prompt's last token only, so that going on from a longer prompt changes the past."""

    def _complete(self, prompt, params, index, cancelled):
        return super()._complete(prompt[-1:], params, index, cancelled)


class TopKKeepsOneMore(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        if params.top_k:
            params = attrs.evolve(params, top_k=params.top_k + 1)
        return super()._complete(prompt, params, index, cancelled)


class IgnoresTopP(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        return super()._complete(prompt, attrs.evolve(params, top_p=1.0), index, cancelled)


class IgnoresTemperature(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        temperature = 1.0 if params.temperature else 0.0
        return super()._complete(prompt, attrs.evolve(params, temperature=temperature), index, cancelled)


class EveryCompletionDrawsAlike(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        return super()._complete(prompt, params, 0, cancelled)


class SeedsDependOnN(FakeSampler):
    def _sample(self, prompt, params, n, cancelled):
        return super()._sample(prompt, attrs.evolve(params, seed=params.seed + n), n, cancelled)


class IgnoresSeeds(FakeSampler):
    def _sample(self, prompt, params, n, cancelled):
        return super()._sample(prompt, attrs.evolve(params, seed=0), n, cancelled)


class DrawsFromOneStream(FakeSampler):
    """Each request moves the seed of the next one, as a shared generator does."""

    drawn = 0

    def _sample(self, prompt, params, n, cancelled):
        self.drawn += 1
        return super()._sample(prompt, attrs.evolve(params, seed=params.seed + self.drawn), n, cancelled)


class OneTokenMore(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        return super()._complete(prompt, attrs.evolve(params, max_tokens=params.max_tokens + 1), index, cancelled)


class PastTheContext(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        self.context += 1
        try:
            return super()._complete(prompt, params, index, cancelled)
        finally:
            self.context -= 1


class DropsTheStopId(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        got = super()._complete(prompt, params, index, cancelled)
        if got.finish is FinishReason.STOP and got.tokens[-1] in params.stop_ids:
            return attrs.evolve(got, tokens=ints(got.tokens[:-1]), logprobs=floats(got.logprobs[:-1]))
        return got


class StopIsSeenInOneTokenOnly(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        texts = tuple(stop for stop in params.stop if stop.encode() in self._bytes)
        return super()._complete(prompt, attrs.evolve(params, stop=texts), index, cancelled)


class StopIsSeenInThePrompt(FakeSampler):
    def _complete(self, prompt, params, index, cancelled):
        said = b"".join(self._bytes[t] for t in prompt)
        texts = tuple(stop for stop in params.stop if stop.encode() not in said)
        return super()._complete(prompt, attrs.evolve(params, stop=texts[:1]), index, cancelled)


class ChecksNothing(FakeSampler):
    def _check(self, tokens):
        return tokens


class ScoresLessThanTheContext(FakeSampler):
    def score(self, tokens):
        if len(tokens) == self.context:
            raise TinsmithError("too long")
        return super().score(tokens)


class CannotCancel(FakeSampler):
    def sample(self, prompt, params, n=1):
        pending = super().sample(prompt, params, n)
        pending.cancel = lambda: False
        return pending

    def close(self):
        self._worker.closed = True
        self._worker._pool.shutdown(wait=True)


class ACancelKillsAll(FakeSampler):
    def sample(self, prompt, params, n=1):
        pending = super().sample(prompt, params, n)
        pending._on_cancel = self.close
        return pending


CAUGHT_BY = {
    LogprobsAreTempered: ["those_of_scoring"],
    PromptLogprobsAreShifted: ["score_of_the_prompt"],
    AlwaysGivesPromptLogprobs: ["score_of_the_prompt"],
    TopIsUnsorted: ["likeliest_first"],
    TopIsCutShort: ["sum_to_one", "likeliest_first"],
    PromptTableIsOfTheNextToken: ["at_each_position"],
    PromptTableIsUnsorted: ["at_each_position"],
    IgnoresTemperatureZero: ["take_the_likeliest"],
    ForgetsThePrompt: ["take_the_likeliest"],
    TopKKeepsOneMore: ["keep_the_likeliest"],
    IgnoresTopP: ["keep_the_likeliest", "as_often"],
    IgnoresTemperature: ["as_often"],
    EveryCompletionDrawsAlike: ["seed_fixes"],
    SeedsDependOnN: ["seed_fixes"],
    IgnoresSeeds: ["other_seeds"],
    DrawsFromOneStream: ["do_not_depend"],
    OneTokenMore: ["has_max_tokens"],
    PastTheContext: ["ends_at_the_context"],
    DropsTheStopId: ["stop_id"],
    StopIsSeenInOneTokenOnly: ["stop_string"],
    StopIsSeenInThePrompt: ["stop_string"],
    ChecksNothing: ["bad_input"],
    ScoresLessThanTheContext: ["longest_sequence"],
    CannotCancel: ["cancelled_work", "closing_ends"],
    ACancelKillsAll: ["cancelled_work"],
}


def suite_of(mutant):
    class Suite(SamplerContract):
        def make(self):
            trainer = FakeTrainer(TOKENIZER, context=64)
            try:
                model = trainer.sampler().result()._model
            finally:
                trainer.close()
            return mutant(backend._Model(model.weights, model.order), TOKENIZER, 64, 0)

        def token_bytes(self):
            return TOKENIZER.token_bytes()

    return Suite()


@pytest.mark.parametrize("mutant", CAUGHT_BY, ids=lambda mutant: mutant.__name__)
def test_a_planted_fault_is_caught(mutant):
    for part in CAUGHT_BY[mutant]:
        (law,) = [law for law in laws_of(SamplerContract) if part in law]
        with pytest.raises((AssertionError, pytest.fail.Exception, TinsmithError)):
            run_law(suite_of(mutant), law)


def test_every_law_catches_a_fault():
    parts = [part for parts in CAUGHT_BY.values() for part in parts]
    assert [law for law in laws_of(SamplerContract) if not any(part in law for part in parts)] == []


def test_the_laws_pass_without_a_fault():
    for law in laws_of(SamplerContract):
        run_law(suite_of(FakeSampler), law)
