"""Completions."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinsmith.testing.conformance import rows as r
from tinsmith.testing.conformance.handles import Sampler, Train, supported
from tinsmith.testing.conformance.law import DOCS, SDK, Broken, Unsupported, expect, law
from tinsmith.testing.conformance.world import PROBE, World

Prompt = tuple[int, ...]
FALSE_ALARM = 1e-6
"""Chance that a statistical law calls a true server broken."""
DRAWS = 512
LONG = (16, 64)
"""Completions, and tokens of each, in which an end is looked for."""
COMMON = "aeot ,1"
"""Characters of which some are near in any completion."""
ALARM_T = 4.9
"""Normal deviate of FALSE_ALARM, on both sides."""


@law(source=DOCS, prompt=r.prompts, seed=r.seeds)
def sampling_equals_scoring(world: World, prompt: tuple[int, ...], seed: int) -> None:
    """Logprobs of sampled tokens are those that the same tokens get when they are scored as a prompt."""
    sampler = world.start_sampler
    for sequence in sampler.sample(prompt, n=2, seed=seed, max_tokens=5).sequences:
        scores = sampler.score((*prompt, *(int(t) for t in sequence.tokens)))
        world.equal(sequence.logprobs.astype(np.float64), scores[len(prompt) :], "logprobs as sampled, and as scored")


@law(source=DOCS, prompt=st.lists(r.ids, min_size=2, max_size=6).map(tuple))
def sampler_equals_trainer(world: World, prompt: tuple[int, ...]) -> None:
    """A sampler scores tokens as a forward of the weights that it was made of."""
    scores = world.start_sampler.score(prompt)
    row = r.Row(prompt[:-1], prompt[1:], (1.0,) * (len(prompt) - 1))
    world.equal(world.at_start([row])[0], scores[1:], "logprobs by forward, and by the sampler of the same weights")


@law(prompt=r.prompts)
def prompt_logprobs(world: World, prompt: tuple[int, ...]) -> None:
    """prompt_logprobs has an entry for each token of the prompt, NaN for the first, and comes only when asked for."""
    scores = world.start_sampler.score(prompt)
    expect(len(scores) == len(prompt), f"{len(scores)} logprobs for {len(prompt)} tokens")
    expect(math.isnan(scores[0]), f"the first token, which follows nothing, has {scores[0]:.5g}")
    expect(bool((scores[1:] <= 1e-4).all()), f"logprobs {scores.tolist()}")
    unasked = world.start_sampler.sample(prompt, max_tokens=1)
    expect(unasked.prompt_logprobs is None, "prompt_logprobs came without being asked for")


@law(prompt=st.lists(r.ids, min_size=2, max_size=6).map(tuple), cut=st.integers(1, 5), seed=r.seeds)
def chunks_of_a_prompt(world: World, prompt: tuple[int, ...], cut: int, seed: int) -> None:
    """The tokens of a prompt may come in several chunks."""
    sampler = world.start_sampler
    right = sampler.sample(prompt, seed=seed).tokens
    parts = [part for part in (prompt[:cut], prompt[cut:]) if part]
    chunks = {"chunks": [{"tokens": list(part), "type": "encoded_text"} for part in parts]}
    found = supported(lambda: sampler.sample(prompt, seed=seed, extra={"prompt": chunks})).tokens
    expect(found == right, f"in one chunk {right}, cut after {cut} tokens {found}")


def _counts(sampler: Sampler, prompt: Prompt, **params: Any) -> Counter[int]:
    """First tokens of DRAWS completions."""
    requests = [sampler.submit(prompt, n=DRAWS // 4, max_tokens=1, **params)["request_id"] for _ in range(4)]
    return Counter(tokens[0] for request in requests for tokens in sampler.result(request).tokens)


def _likely(sampler: Sampler, prompt: Prompt, size: int = 12, **params: Any) -> dict[int, float]:
    """Logprobs of the tokens that come most often after the prompt."""
    return sampler.next_logprobs(prompt, [token for token, _ in _counts(sampler, prompt, **params).most_common(size)])


def _fits(drawn: Counter[int], logprobs: dict[int, float], heat: float) -> None:
    """Raise Broken where these tokens came with other probabilities than these, by a chi-square test whose chance of a
    false alarm is FALSE_ALARM. Unsupported where one token has nearly all the probability."""
    tokens = list(logprobs)
    shares = np.exp((np.array([logprobs[t] for t in tokens]) - max(logprobs.values())) / heat)
    counts = np.array([drawn[t] for t in tokens], float)
    expected = shares / shares.sum() * counts.sum()
    order = np.argsort(-expected)
    counts, expected = counts[order], expected[order]
    few = int((expected >= 5).sum())
    if few < len(counts):  # rare ones together
        counts = np.append(counts[:few], counts[few:].sum())
        expected = np.append(expected[:few], expected[few:].sum())
    if len(counts) < 2:
        raise Unsupported("one token has nearly all the probability: nothing can be seen")
    statistic = float(((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum())
    degrees = len(counts) - 1
    # Wilson and Hilferty's cube root: near enough a normal variate in the far tail
    deviate = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
    pairs = ", ".join(f"{int(c)} for {e:.1f}" for c, e in zip(counts, expected, strict=True))
    expect(deviate < ALARM_T, f"tokens came {pairs} times expected (chi-square {statistic:.0f} of {degrees} degrees)")


@law(source=DOCS, heat=st.sampled_from((0.5, 1.0, 2.0)))
def temperature(world: World, heat: float) -> None:
    """Tokens come with probabilities proportional to exp(logprob / temperature) (a chi-square test of 512 draws whose
    chance of a false alarm is one in a million)."""
    sampler, prompt = world.start_sampler, world.open_prompt
    _fits(_counts(sampler, prompt, temperature=heat), _likely(sampler, prompt), heat)


@law(source=DOCS, seed=r.seeds)
def greedy(world: World, seed: int) -> None:
    """Temperature 0 takes the likeliest token, whatever the seed."""
    sampler, prompt = world.start_sampler, world.open_prompt
    one = sampler.sample(prompt, temperature=0.0, seed=seed, max_tokens=4).tokens[0]
    expect(one == sampler.sample(prompt, temperature=0.0, seed=seed + 1, max_tokens=4).tokens[0], "two seeds differ")
    drawn = sampler.sample(prompt, n=32, max_tokens=1).tokens
    logprobs = sampler.next_logprobs(prompt, {one[0], *(tokens[0] for tokens in drawn)})
    likeliest, own = max(logprobs, key=lambda token: logprobs[token]), logprobs[one[0]]
    expect(
        own >= logprobs[likeliest] - 1e-3,
        f"it took {one[0]} of logprob {own:.4g}; {likeliest} has {logprobs[likeliest]:.4g}",
    )


@law(source=DOCS, k=st.integers(1, 5))
def top_k(world: World, k: int) -> None:
    """With top_k the k likeliest tokens come, and no others, in proportion to their probabilities."""
    sampler, prompt = world.start_sampler, world.open_prompt
    came = _counts(sampler, prompt, top_k=k, temperature=2.0)
    expect(len(came) <= k, f"{len(came)} different tokens came with top_k={k}")
    logprobs = {**_likely(sampler, prompt, temperature=1.5), **sampler.next_logprobs(prompt, came)}
    cut = sorted(logprobs.values(), reverse=True)[:k][-1]
    for token in came:
        expect(logprobs[token] >= cut - 1e-3, f"{token} of logprob {logprobs[token]:.4g} came; the {k}th has {cut:.4g}")
    if k > 1:
        _fits(came, {token: lp for token, lp in logprobs.items() if lp >= cut - 1e-6}, 2.0)


@law(source=DOCS, mass=st.sampled_from((0.1, 0.3, 0.6, 0.9, 0.97)))
def top_p(world: World, mass: float) -> None:
    """With top_p the tokens of the smallest set of at least that probability come, and no others, in proportion to
    their probabilities."""
    sampler, prompt = world.start_sampler, world.open_prompt
    came = _counts(sampler, prompt, top_p=mass)
    logprobs = {**_likely(sampler, prompt, 40), **sampler.next_logprobs(prompt, came)}
    for token in came:
        before = sum(math.exp(lp) for lp in logprobs.values() if lp > logprobs[token] + 1e-3)
        expect(before < mass + 1e-3, f"{token} came with top_p={mass:g}; likelier ones have {before:.3g} already")
    kept, sum_before = dict[int, float](), 0.0
    for token, lp in sorted(logprobs.items(), key=lambda item: -item[1]):
        if abs(sum_before - mass) < 0.01:
            return  # on the edge: rounding decides
        if sum_before < mass:
            kept[token] = lp
        sum_before += math.exp(lp)
    if len(kept) > 1:
        _fits(came, kept, 1.0)


@law(source=DOCS, prompt=r.prompts, seed=r.seeds)
def stop_ids(world: World, prompt: tuple[int, ...], seed: int) -> None:
    """A stop id ends a completion, which holds it as its last token; up to there it is as without."""
    sampler = world.start_sampler
    free = sampler.sample(prompt, seed=seed, max_tokens=8).tokens[0]
    stop = free[3]
    ended = sampler.sample(prompt, seed=seed, max_tokens=8, stop=[stop]).sequences[0]
    right = free[: free.index(stop) + 1]
    got = tuple(int(t) for t in ended.tokens)
    expect(got == right, f"without a stop {free}; with stop [{stop}] {got}, not {right}")
    expect(ended.stopped, "it ended at the stop id, and its reason says length")


@law(source=DOCS, prompt=r.prompts, seed=r.seeds)
def stop_strings(world: World, prompt: tuple[int, ...], seed: int) -> None:
    """A stop string ends a completion at the token that completes it; a bare string is a list of one."""
    sampler = world.start_sampler
    letters = [chr(c) for c in range(32, 127)]
    free = sampler.sample(prompt, seed=seed, max_tokens=24).tokens[0]
    other = sampler.sample(prompt, seed=seed, max_tokens=24, stop=["\u2603 never \u2603"]).tokens[0]
    expect(other == free, f"with a stop that never comes {other}, without {free}")
    ended = sampler.sample(prompt, seed=seed, max_tokens=24, stop=letters).sequences[0]
    got = tuple(int(t) for t in ended.tokens)
    expect(got == free[: len(got)], f"with stops {got}, without {free}")
    expect(ended.stopped and len(got) < 24, f"no printable character stopped {got}")
    requests = [sampler.submit(prompt, seed=seed, max_tokens=24, stop=[c])["request_id"] for c in COMMON]
    listed = [sampler.result(q).tokens[0] for q in requests]
    pairs = [(c, tokens) for c, tokens in zip(COMMON, listed, strict=True) if len(tokens) < len(free)][:3]
    for character, tokens in pairs:
        bare = sampler.sample(prompt, seed=seed, max_tokens=24, stop=character).tokens[0]
        expect(bare == tokens, f"stop [{character!r}] gave {tokens}, the bare string {bare}")
        expect(tokens == free[: len(tokens)], f"stop [{character!r}] gave {tokens}, without {free}")


@law(source=DOCS)
def stop_default(world: World) -> None:
    """Without stop a completion ends at the model's end token, with an empty list at no token."""
    sampler = world.base_sampler
    for prompt in ((17, 42, 91), (17,), PROBE[1].tokens, (10,), (64, 64)):
        answer = sampler.sample(prompt, n=LONG[0], stop=None, max_tokens=LONG[1], seed=5)
        ended = [(i, s) for i, s in enumerate(answer.sequences) if s.stopped and len(s.tokens) < LONG[1]]
        if ended:
            break
    else:
        raise Unsupported(f"no completion came to its end in {LONG[1]} tokens: nothing can be seen")
    expect(len({int(s.tokens[-1]) for _, s in ended}) <= 4, "completions without stop end at many different tokens")
    i, stopped = ended[0]
    on = sampler.sample(prompt, n=LONG[0], stop=[], max_tokens=LONG[1], seed=5).sequences[i]
    expect(
        len(on.tokens) == LONG[1] and not on.stopped,
        f"with an empty list it ended after {len(on.tokens)} of {LONG[1]} tokens",
    )
    again = tuple(int(t) for t in on.tokens[: len(stopped.tokens)])
    expect(again == tuple(int(t) for t in stopped.tokens), "with an empty list it began otherwise")


@law(prompt=r.prompts, length=st.integers(1, 12))
def max_tokens(world: World, prompt: tuple[int, ...], length: int) -> None:
    """Without a stop there are max_tokens tokens, a logprob for each, and the reason is length."""
    for sequence in world.start_sampler.sample(prompt, n=2, max_tokens=length).sequences:
        expect(len(sequence.tokens) == length, f"{len(sequence.tokens)} tokens with max_tokens={length}")
        expect(len(sequence.logprobs) == length, f"{len(sequence.logprobs)} logprobs for {length} tokens")
        expect(not sequence.stopped, "it ended for its length, and its reason says stop")


@law(source=DOCS, prompt=r.prompts, seed=r.seeds)
def seeded(world: World, prompt: tuple[int, ...], seed: int) -> None:
    """The same prompt and seed give the same completions; another seed, or none, gives others."""
    sampler = world.start_sampler

    def draw(**how: Any) -> list[tuple[int, ...]]:
        return sampler.sample(prompt, n=2, max_tokens=16, temperature=1.5, **how).tokens

    one = draw(seed=seed)
    expect(one == draw(seed=seed), f"seed {seed} gave different completions")
    expect(one != draw(seed=seed ^ 0x55555), "two seeds gave the same 32 tokens")
    expect(draw() != draw(), "two requests without a seed gave the same 32 tokens")


@law(prompt=r.prompts, n=st.integers(1, 5))
def num_samples(world: World, prompt: tuple[int, ...], n: int) -> None:
    """num_samples completions come, drawn apart from each other."""
    found = world.start_sampler.sample(prompt, n=n, max_tokens=16, temperature=1.5, seed=3).tokens
    expect(len(found) == n, f"{len(found)} completions of {n}")
    expect(len(set(found)) == n, f"of {n} completions of 16 tokens some are equal")


@law(prompt=st.lists(r.ids, min_size=2, max_size=5).map(tuple), k=st.integers(1, 4))
def top_prompt_logprobs(world: World, prompt: tuple[int, ...], k: int) -> None:
    """topk_prompt_logprobs names the k likeliest tokens of each position, likeliest first, with the logprobs that
    scoring gives them."""
    sampler = world.start_sampler
    extra = {"prompt_logprobs": True, "topk_prompt_logprobs": k}
    result = supported(lambda: sampler.sample(prompt, max_tokens=1, extra=extra))
    if result.top is None:
        raise Broken("topk_prompt_logprobs were asked for and did not come")
    ids, logprobs = result.top
    expect(ids.shape == (len(prompt), k), f"a table of {ids.shape} for {len(prompt)} tokens and k={k}")
    for i in range(1, len(prompt)):
        expect(bool((np.diff(logprobs[i]) <= 1e-6).all()), f"logprobs at {i} rise: {logprobs[i].tolist()}")
        right = result.prompt_logprobs[i]
        for token, lp in zip(ids[i], logprobs[i], strict=True):
            if token == prompt[i]:
                expect(
                    abs(lp - right) < 1e-3, f"{token} at {i} has {lp:.5g} in the table and {right:.5g} in the prompt's"
                )
    last = sampler.next_logprobs(prompt[:-1], [int(t) for t in ids[-1]])
    for token, lp in zip(ids[-1], logprobs[-1], strict=True):
        expect(
            abs(last[int(token)] - lp) < 1e-3 + world.noise,
            f"{token}: {lp:.5g} in the table, scored {last[int(token)]:.5g}",
        )
    expect(
        float(logprobs[-1][0]) >= float(result.prompt_logprobs[-1]) - 1e-3, "a token of the prompt beats the likeliest"
    )


@law(prompt=r.prompts, k=st.integers(1, 4))
def top_sample_logprobs(world: World, prompt: tuple[int, ...], k: int) -> None:
    """topk_sample_logprobs names the k likeliest tokens at each sampled position, likeliest first."""
    sampler = world.start_sampler
    result = supported(lambda: sampler.sample(prompt, max_tokens=4, seed=4, extra={"topk_sample_logprobs": k}))
    sequence = result.sequences[0]
    if sequence.top is None:
        raise Broken("topk_sample_logprobs were asked for and did not come")
    ids, logprobs = sequence.top
    expect(ids.shape == (4, k), f"a table of {ids.shape} for 4 tokens and k={k}")
    for i in range(4):
        expect(bool((np.diff(logprobs[i]) <= 1e-6).all()), f"logprobs at {i} rise: {logprobs[i].tolist()}")
        inside = np.flatnonzero(ids[i] == sequence.tokens[i])
        if len(inside):
            pair = float(logprobs[i][inside[0]]), float(sequence.logprobs[i])
            expect(
                abs(pair[0] - pair[1]) < 1e-3, f"the token at {i} has {pair[0]:.5g} in the table, {pair[1]:.5g} beside"
            )
        else:
            expect(float(sequence.logprobs[i]) <= float(logprobs[i][-1]) + 1e-3, f"the token at {i} is missing")
    scored = sampler.next_logprobs(prompt, [int(t) for t in ids[0]])
    for token, lp in zip(ids[0], logprobs[0], strict=True):
        expect(
            abs(scored[int(token)] - lp) < 1e-3 + world.noise,
            f"{token}: {lp:.5g} in the table, scored {scored[int(token)]:.5g}",
        )


@law(source="save_weights_and_get_sampling_client of " + SDK)
def frozen_sampler(world: World) -> None:
    """A sampler has the weights of the moment, in the order of requests, when it was saved, and keeps them whatever the
    model learns after."""
    model = world.reset()
    row = PROBE[0]
    right = model.logprobs([row])
    saving = model.submit_sampler()
    learning = model.submit_train(Train(PROBE)), model.submit_step(world.descend(2.0))  # before it is there
    sampler = model.saved_sampler(saving)
    model.trained(learning[0])
    model.stepped(learning[1])
    for when in ("one step", "two steps"):
        scores = sampler.score((row.tokens[0], *row.targets))  # type: ignore[arg-type]
        world.equal(right, scores[1:], f"logprobs of the model when it was saved, and of the sampler after {when}")
        model.train(Train(PROBE))
        model.step(world.descend(2.0))


@law()
def base_sampler(world: World) -> None:
    """A sampling session of a base model is that model without what was trained."""
    base = world.sampling_session(base_model=world.base_model)
    row = PROBE[0]
    new = world.create_model().logprobs([row])
    scores = base.score((row.tokens[0], *row.targets))  # type: ignore[arg-type]
    world.equal(new, scores[1:], "logprobs of a new model, and of a session of the base model")
    trained = world.start_sampler.score((row.tokens[0], *row.targets))  # type: ignore[arg-type]
    expect(
        float(np.abs(trained[1:] - scores[1:]).max()) > 1e-3, "a sampler of a trained model scores as the base model"
    )


@law(prompt=r.prompts, seed=r.seeds)
def many_samples_at_once(world: World, prompt: tuple[int, ...], seed: int) -> None:
    """Requests that run at once do not change each other's completions."""
    sampler = world.start_sampler
    work = [((*prompt, 60 + i), seed + i) for i in range(6)]
    alone = [sampler.sample(p, seed=s, max_tokens=6).tokens for p, s in work]
    requests = [sampler.submit(p, seed=s, max_tokens=6)["request_id"] for p, s in work]
    for i in reversed(range(len(work))):
        found = sampler.result(requests[i]).tokens
        expect(found == alone[i], f"request {i} of {len(work)} gave {found} among others, and {alone[i]} alone")
