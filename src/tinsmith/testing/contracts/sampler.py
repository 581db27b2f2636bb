"""The contract of a Sampler. Subclass it, supply `make` and `token_bytes`, and pytest collects the laws.

The model behind `make` should be uncertain (no token near probability 1), or the laws on seeds and filters see little.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.domain.errors import CancelledWorkError, TinsmithError
from tinsmith.domain.tokens import Ints, ints
from tinsmith.ports.sampler import Completion, FinishReason, Sampler, SampleResult, SamplingParams
from tinsmith.testing.contracts._common import LAW, assert_refused, seeds, wait

prompt_lengths = st.integers(1, 9)


class SamplerContract:
    """Laws of every Sampler."""

    def make(self) -> Sampler:
        """A new sampler, always with the same weights."""
        raise NotImplementedError

    def token_bytes(self) -> list[bytes]:
        """What each id stands for, by id."""
        raise NotImplementedError

    tolerance = 1e-4
    """Absolute error allowed of a logprob, in nats."""

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Sampler]:
        sampler = self.make()
        try:
            yield sampler
        finally:
            sampler.close()

    def prompt(self, length: int, seed: int) -> Ints:
        return ints(np.random.default_rng(seed).integers(0, len(self.token_bytes()), length))

    def one(self, sampler: Sampler, prompt: Ints, **params: Any) -> Completion:
        params.setdefault("max_tokens", 8)
        return wait(sampler.sample(prompt, SamplingParams(**params))).completions[0]

    # Logprobs

    @LAW
    @given(
        length=prompt_lengths,
        seed=seeds,
        temperature=st.sampled_from([0.0, 0.5, 1.0, 1.7]),
        top_k=st.sampled_from([0, 1, 5]),
        top_p=st.sampled_from([0.3, 1.0]),
    )
    def test_logprobs_of_sampled_tokens_are_those_of_scoring_them(
        self, length: int, seed: int, temperature: float, top_k: int, top_p: float
    ) -> None:
        """Of the model itself: temperature and filters choose tokens, and change no logprob."""
        with self.fresh() as sampler:
            prompt = self.prompt(length, seed)
            got = self.one(sampler, prompt, seed=seed, temperature=temperature, top_k=top_k, top_p=top_p)
            assert got.tokens.dtype == np.int32
            assert got.logprobs.dtype == np.float32
            scored = wait(sampler.score(np.concatenate([prompt, got.tokens])))
            assert np.isnan(scored[0])
            np.testing.assert_allclose(got.logprobs, scored[length:], atol=self.tolerance)

    @LAW
    @given(length=prompt_lengths, seed=seeds)
    def test_prompt_logprobs_are_the_score_of_the_prompt(self, length: int, seed: int) -> None:
        with self.fresh() as sampler:
            prompt = self.prompt(length, seed)
            result = wait(sampler.sample(prompt, SamplingParams(max_tokens=1, prompt_logprobs=True)))
            assert result.prompt_logprobs is not None
            np.testing.assert_allclose(result.prompt_logprobs, wait(sampler.score(prompt)), atol=self.tolerance)
            assert wait(sampler.sample(prompt, SamplingParams(max_tokens=1))).prompt_logprobs is None

    @LAW
    @given(seed=seeds, k=st.sampled_from([1, 3, 7]))
    def test_top_logprobs_are_the_likeliest_first(self, seed: int, k: int) -> None:
        with self.fresh() as sampler:
            prompt = self.prompt(3, seed)
            got = self.one(sampler, prompt, seed=seed, top_logprobs=k)
            assert got.top_ids is not None
            assert got.top_logprobs is not None
            assert got.top_ids.shape == got.top_logprobs.shape == (len(got.tokens), k)
            assert np.all(np.diff(got.top_logprobs, axis=1) <= 0)
            for t, token in enumerate(got.tokens):
                shown = got.top_ids[t] == token
                if shown.any():
                    np.testing.assert_allclose(got.top_logprobs[t][shown], got.logprobs[t], atol=self.tolerance)
                else:
                    assert got.logprobs[t] <= got.top_logprobs[t, -1] + self.tolerance
            best = np.concatenate([prompt, got.top_ids[0, :1]])
            assert wait(sampler.score(best))[-1] == pytest.approx(got.top_logprobs[0, 0], abs=self.tolerance)

    @LAW
    @given(length=st.integers(1, 6), seed=seeds, k=st.sampled_from([1, 3, 7]))
    def test_top_prompt_logprobs_are_the_likeliest_at_each_position(self, length: int, seed: int, k: int) -> None:
        """Given the prompt up to there, likeliest first; the first token has no prefix."""
        with self.fresh() as sampler:
            prompt = self.prompt(length + 1, seed)
            params = SamplingParams(max_tokens=1, prompt_logprobs=True, top_prompt_logprobs=k, top_logprobs=k)
            result = wait(sampler.sample(prompt, params))
            ids, top, own = result.prompt_top_ids, result.prompt_top_logprobs, result.prompt_logprobs
            assert ids is not None
            assert top is not None
            assert own is not None
            assert ids.shape == top.shape == (length + 1, k)
            assert (ids[0] == -1).all()
            assert np.isnan(top[0]).all()
            assert np.all(np.diff(top[1:], axis=1) <= 0)
            for t in range(1, length + 1):
                shown = ids[t] == prompt[t]
                if shown.any():
                    np.testing.assert_allclose(top[t][shown], own[t], atol=self.tolerance)
                else:
                    assert own[t] <= top[t, -1] + self.tolerance
                best = np.append(prompt[:t], ids[t, :1])
                assert wait(sampler.score(ints(best)))[-1] == pytest.approx(top[t, 0], abs=self.tolerance)
            alone = sampler.sample(prompt[:1], params)
            for other in (wait(alone), wait(sampler.sample(prompt, SamplingParams(max_tokens=1)))):
                assert other.prompt_top_ids is None
                assert other.prompt_top_logprobs is None

    def test_all_logprobs_of_a_position_sum_to_one_and_equal_the_score(self) -> None:
        with self.fresh() as sampler:
            prompt = self.prompt(3, 1)
            vocab = len(self.token_bytes())
            got = self.one(sampler, prompt, max_tokens=1, top_logprobs=vocab)
            assert got.top_ids is not None
            assert got.top_logprobs is not None
            assert sorted(got.top_ids[0].tolist()) == list(range(vocab))
            assert np.exp(got.top_logprobs[0].astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)
            for rank in (0, vocab // 2, vocab - 1):
                scored = wait(sampler.score(np.append(prompt, got.top_ids[0, rank])))[-1]
                assert scored == pytest.approx(got.top_logprobs[0, rank], abs=self.tolerance)

    # How tokens are chosen

    @LAW
    @given(length=prompt_lengths, seed=seeds)
    def test_temperature_zero_and_top_k_one_take_the_likeliest_token(self, length: int, seed: int) -> None:
        with self.fresh() as sampler:
            prompt = self.prompt(length, seed)
            greedy = self.one(sampler, prompt, temperature=0.0, seed=seed, top_logprobs=1)
            assert greedy.top_ids is not None
            assert greedy.tokens.tolist() == greedy.top_ids[:, 0].tolist()
            for same in ({"temperature": 0.0, "seed": seed + 1}, {"top_k": 1, "seed": seed, "temperature": 2.0}):
                assert self.one(sampler, prompt, **same).tokens.tolist() == greedy.tokens.tolist()
            # Going on from the first token gives the rest: the past is read the same however it came to be.
            longer = self.one(sampler, np.append(prompt, greedy.tokens[:1]), temperature=0.0, max_tokens=7)
            assert longer.tokens.tolist() == greedy.tokens[1:].tolist()

    @LAW
    @given(
        seed=seeds, temperature=st.sampled_from([0.7, 1.0, 1.5]), k=st.integers(0, 6), p=st.sampled_from([0.2, 0.6, 1])
    )
    def test_filters_keep_the_likeliest(self, seed: int, temperature: float, k: int, p: float) -> None:
        with self.fresh() as sampler:
            vocab = len(self.token_bytes())
            params = SamplingParams(
                max_tokens=4, temperature=temperature, top_k=k, top_p=p, seed=seed, top_logprobs=vocab
            )
            for got in wait(sampler.sample(self.prompt(3, seed), params, n=4)).completions:
                assert got.top_ids is not None
                assert got.top_logprobs is not None
                for token, ids, logprobs in zip(got.tokens, got.top_ids, got.top_logprobs, strict=True):
                    rank = int(np.flatnonzero(ids == token)[0])
                    tempered = np.exp(logprobs.astype(np.float64)[: k or vocab] / temperature)
                    assert k == 0 or rank < k
                    # Smallest set with at least p: what comes before a kept token is below p.
                    assert tempered[:rank].sum() / tempered.sum() < p + 1e-4

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
    @pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (4, 1.0), (0, 0.5)])
    def test_tokens_come_as_often_as_their_probability_says(self, temperature: float, top_k: int, top_p: float) -> None:
        """First tokens of 600 completions against the filtered distribution: the mean of its logprob (5 sigma), and the
        share of its likelier half."""
        with self.fresh() as sampler:
            prompt = self.prompt(3, 2)
            vocab = len(self.token_bytes())
            shown = self.one(sampler, prompt, max_tokens=1, top_logprobs=vocab)
            assert shown.top_ids is not None
            assert shown.top_logprobs is not None
            p = np.exp(shown.top_logprobs[0].astype(np.float64)[: top_k or vocab] / temperature)
            p /= p.sum()
            p = p[: int(np.searchsorted(np.cumsum(p), top_p)) + 1]
            p /= p.sum()
            params = SamplingParams(max_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p, seed=11)
            firsts = [c.tokens[0] for c in wait(sampler.sample(prompt, params, n=600)).completions]
            rank = {int(token): r for r, token in enumerate(shown.top_ids[0])}
            ranks = np.array([rank[int(token)] for token in firsts])
            assert ranks.max() < len(p)
            for statistic in (np.log(p), np.arange(len(p)) < (len(p) + 1) // 2, np.arange(len(p)) % 2):
                mean = float(p @ statistic)
                sigma = float(np.sqrt(max(p @ (statistic - mean) ** 2, 1e-9) / len(firsts)))
                assert abs(float(np.mean(np.asarray(statistic)[ranks])) - mean) < 5 * sigma + 1e-9

    # Seeds, n, company

    @LAW
    @given(length=prompt_lengths, seed=seeds, n=st.integers(2, 5))
    def test_a_seed_fixes_each_completion_of_a_call(self, length: int, seed: int, n: int) -> None:
        """Completion j draws from (seed, j): it is the same whatever n is, and in another sampler of these weights."""
        prompt = self.prompt(length, seed)
        params = SamplingParams(max_tokens=6, seed=seed)
        with self.fresh() as sampler, self.fresh() as another:
            few = [c.tokens.tolist() for c in wait(sampler.sample(prompt, params, n=n)).completions]
            many = [c.tokens.tolist() for c in wait(another.sample(prompt, params, n=n + 2)).completions]
            assert len(few) == n
            assert many[:n] == few
            assert len({tuple(tokens) for tokens in many}) > 1, "completions of one call are all alike"

    def test_other_seeds_give_other_completions(self) -> None:
        with self.fresh() as sampler:
            got = {tuple(self.one(sampler, self.prompt(2, 0), seed=seed).tokens.tolist()) for seed in range(8)}
            assert len(got) > 4

    @LAW
    @given(seed=seeds, lengths=st.lists(prompt_lengths, min_size=2, max_size=6))
    def test_completions_do_not_depend_on_what_else_is_sampled(self, seed: int, lengths: list[int]) -> None:
        """Submitted at once, from several threads, with different lengths and settings: each as when it is alone."""
        calls = [
            (
                self.prompt(length, seed + i),
                SamplingParams(max_tokens=3 + i, seed=seed + i, temperature=0.5 + 0.5 * (i % 3), top_k=4 * (i % 2)),
            )
            for i, length in enumerate(lengths)
        ]
        with self.fresh() as sampler:
            alone = [wait(sampler.sample(prompt, params, n=2)) for prompt, params in calls]
            together: dict[int, SampleResult] = {}

            def submit(i: int) -> None:
                together[i] = wait(sampler.sample(*calls[i], n=2))

            threads = [threading.Thread(target=submit, args=(i,)) for i in range(len(calls))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for i, result in enumerate(alone):
                for a, b in zip(result.completions, together[i].completions, strict=True):
                    assert a.tokens.tolist() == b.tokens.tolist()
                    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=self.tolerance)

    # Where a completion ends

    @LAW
    @given(length=prompt_lengths, seed=seeds, most=st.integers(1, 9))
    def test_a_completion_without_stops_has_max_tokens(self, length: int, seed: int, most: int) -> None:
        with self.fresh() as sampler:
            got = self.one(sampler, self.prompt(length, seed), seed=seed, max_tokens=most)
            assert (len(got.tokens), got.finish) == (most, FinishReason.LENGTH)
            assert len(got.logprobs) == most

    def test_a_completion_ends_at_the_context(self) -> None:
        with self.fresh() as sampler:
            got = self.one(sampler, self.prompt(sampler.context - 3, 1), max_tokens=10)
            assert (len(got.tokens), got.finish) == (3, FinishReason.LENGTH)

    @LAW
    @given(length=prompt_lengths, seed=seeds)
    def test_a_stop_id_ends_a_completion_and_is_part_of_it(self, length: int, seed: int) -> None:
        with self.fresh() as sampler:
            prompt = self.prompt(length, seed)
            free = self.one(sampler, prompt, seed=seed, max_tokens=10)
            vocab = len(self.token_bytes())
            stops = {int(i) for i in np.random.default_rng(seed).integers(0, vocab, vocab // 4)}
            stopped = self.one(sampler, prompt, seed=seed, max_tokens=10, stop_ids=tuple(sorted(stops)))
            first = next((i for i, token in enumerate(free.tokens) if int(token) in stops), None)
            expected = free.tokens if first is None else free.tokens[: first + 1]
            assert stopped.tokens.tolist() == expected.tolist()
            assert stopped.finish == (FinishReason.LENGTH if first is None else FinishReason.STOP)

    @LAW
    @given(seed=seeds, start=st.integers(0, 6), size=st.integers(1, 3))
    def test_a_stop_string_ends_a_completion_once_its_text_holds_it(self, seed: int, start: int, size: int) -> None:
        """Also when the string spans tokens; the completion is the shortest whose bytes hold it."""
        pieces = self.token_bytes()
        with self.fresh() as sampler:
            prompt = self.prompt(3, seed)
            free = self.one(sampler, prompt, seed=seed, max_tokens=10, temperature=0.7)
            text = b"".join(pieces[t] for t in free.tokens[start : start + size]).decode("utf-8", "ignore")
            text = text[-4:] or "\x00nowhere"
            ends = [i for i in range(1, 11) if text.encode() in b"".join(pieces[t] for t in free.tokens[:i])]
            stopped = self.one(sampler, prompt, seed=seed, max_tokens=10, temperature=0.7, stop=("\x01never\x01", text))
            assert stopped.tokens.tolist() == free.tokens[: ends[0] if ends else 10].tolist()
            assert stopped.finish == (FinishReason.STOP if ends else FinishReason.LENGTH)

    # What is refused, cancelled, closed

    def test_bad_input_is_refused_when_submitted(self) -> None:
        with self.fresh() as sampler:
            params = SamplingParams(max_tokens=2)
            good = self.prompt(3, 0)
            vocab = len(self.token_bytes())
            submissions = {
                "a prompt that leaves no room": lambda: sampler.sample(self.prompt(sampler.context, 0), params),
                "an empty prompt": lambda: sampler.sample(good[:0], params),
                "an id past the vocabulary": lambda: sampler.sample(np.append(good, np.int32(vocab)), params),
                "a negative id": lambda: sampler.sample(np.append(good, np.int32(-1)), params),
                "no completion": lambda: sampler.sample(good, params, n=0),
                "scoring past the context": lambda: sampler.score(self.prompt(sampler.context + 1, 0)),
                "scoring nothing": lambda: sampler.score(good[:0]),
            }
            assert_refused(submissions)
            assert len(self.one(sampler, good, max_tokens=2).tokens) == 2

    def test_the_longest_sequence_can_be_scored(self) -> None:
        with self.fresh() as sampler:
            full = self.prompt(sampler.context, 0)
            scored = wait(sampler.score(full))
            assert np.isfinite(scored[1:]).all()
            assert scored.shape == full.shape
            assert np.isnan(wait(sampler.score(full[:1]))).tolist() == [True]

    def test_cancelled_work_ends_and_leaves_the_rest_alone(self) -> None:
        with self.fresh() as sampler:
            prompt = self.prompt(2, 0)
            long = SamplingParams(max_tokens=sampler.context - 2, seed=1)
            expected = self.one(sampler, prompt, seed=5)
            doomed = [sampler.sample(prompt, long, n=8) for _ in range(6)]
            kept = sampler.sample(prompt, SamplingParams(max_tokens=8, seed=5))
            promised = [pending.cancel() for pending in doomed]
            ended = 0
            for pending, cancelled in zip(doomed, promised, strict=True):
                try:
                    wait(pending)
                    assert not cancelled, "cancel() said that there would be no result"
                except CancelledWorkError:
                    ended += 1
            assert ended, "nothing was cancelled"
            assert wait(kept).completions[0].tokens.tolist() == expected.tokens.tolist()

    def test_closing_ends_what_waits_and_refuses_what_comes(self) -> None:
        with self.fresh() as sampler:
            prompt = self.prompt(2, 0)
            long = SamplingParams(max_tokens=sampler.context - 2)
            waiting = [sampler.sample(prompt, long, n=4) for _ in range(12)]
            sampler.close()
            ended = 0
            for pending in waiting:
                try:
                    wait(pending)
                except CancelledWorkError:
                    ended += 1
            assert ended, "nothing was cancelled"
            with pytest.raises(TinsmithError):
                wait(sampler.sample(prompt, long))
            sampler.close()
