"""An environment of the package for a first run: a sum, and where the answer is wrong a second try at half the pay."""

from __future__ import annotations

import random
import re
from typing import Any


def load_environment(num_train: int = 2000, num_test: int = 256, seed: int = 0) -> Any:
    import verifiers as vf
    from datasets import Dataset

    def right(messages: Any, answer: str) -> bool:
        numbers = re.findall(r"-?\d+", str(messages[-1]["content"]))
        return bool(numbers) and numbers[-1] == answer

    def paid(completion: Any, answer: str) -> float:
        tries = sum(message["role"] == "assistant" for message in completion)
        return float(right(completion, answer) / tries)

    def correct(completion: Any, answer: str) -> float:
        return float(right(completion, answer))

    class Sums(vf.MultiTurnEnv):  # type: ignore[misc]
        async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
            return [{"role": "user", "content": f"That is wrong. {state['info']['asked']}"}]

        @vf.stop  # type: ignore[untyped-decorator]
        async def answered(self, state: Any) -> bool:
            tried = state["trajectory"]
            return bool(tried) and right(tried[-1]["completion"], state["answer"])

    def rows(count: int, seed: int) -> Any:
        rng, made = random.Random(seed), []
        for _ in range(count):
            x, y = rng.randint(0, 100), rng.randint(0, 100)
            asked = f"What is {x} + {y}?"
            made.append({"question": asked, "answer": str(x + y), "info": {"asked": asked}})
        return Dataset.from_list(made)

    rubric = vf.Rubric(funcs=[paid, correct], weights=[1.0, 0.0])
    return Sums(
        dataset=rows(num_train, seed), eval_dataset=rows(num_test, seed + 1_000_003), rubric=rubric, max_turns=2
    )
