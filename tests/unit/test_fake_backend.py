"""The fake backend learns, so that a loop tested on it is a loop that was tested."""

import numpy as np

from tinsmith.domain.datums import Batch, Datum
from tinsmith.ports.sampler import SamplingParams
from tinsmith.ports.trainer import AdamW, LossSpec
from tinsmith.testing import FakeTokenizer, FakeTrainer

TOKENIZER = FakeTokenizer()


def _datum(text: str) -> Datum:
    ids = TOKENIZER.encode(text)
    return Datum(tokens=ids[:-1], targets=ids[1:], weights=np.ones(len(ids) - 1))


def test_supervised_learning_makes_a_text_certain_and_greedy_sampling_says_it():
    trainer = FakeTrainer(seed=1)
    batch = Batch.of([_datum("abcdefgh\n")])
    for _ in range(30):
        trainer.forward_backward(batch, LossSpec("cross_entropy"))
        trainer.optim_step(AdamW(learning_rate=0.2))
    assert trainer.forward(batch).result().loss / batch.num_tokens < 0.05
    sampler = trainer.sampler().result()
    params = SamplingParams(max_tokens=20, temperature=0, stop=("\n",))
    result = sampler.sample(TOKENIZER.encode("a"), params).result()
    assert TOKENIZER.decode(result.completions[0].tokens) == "bcdefgh\n"


def test_reinforcement_learning_by_minus_the_advantage_raises_the_reward():
    trainer = FakeTrainer(seed=2, likely=TOKENIZER.encode("0123456789"))
    prompt = TOKENIZER.encode("?")
    rewards = []
    for step in range(15):
        sampler = trainer.sampler().result()
        got = sampler.sample(prompt, SamplingParams(max_tokens=4, seed=step), n=16).result().completions
        sampler.close()
        reward = np.array([np.mean(c.tokens == ord("7")) for c in got])
        rewards.append(float(reward.mean()))
        datums, gradients = [], []
        for c, advantage in zip(got, reward - reward.mean(), strict=True):
            full = np.concatenate([prompt, c.tokens])
            datums.append(Datum(tokens=full[:-1], targets=full[1:], weights=np.ones(len(full) - 1)))
            gradients.append(np.full(len(full) - 1, -advantage))
        trainer.backward(Batch.of(datums), np.concatenate(gradients))
        trainer.optim_step(AdamW(learning_rate=0.3))
    assert rewards[0] < 0.3
    assert rewards[-1] > 0.9
