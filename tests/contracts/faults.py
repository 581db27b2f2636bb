"""Runs one law of a contract suite outside pytest, on a few fixed examples (so that no time goes into shrinking)."""

import inspect

from tinsmith.testing import FakeTokenizer


class SmallTokenizer(FakeTokenizer):
    """26 letters and a control token: contracts make many models, and a small one shows as much."""

    def __init__(self):
        super().__init__(["<|end|>"])
        self._special = {"<|end|>": 26}
        self._bytes = [bytes([ord("a") + i]) for i in range(26)] + [b"<|end|>"]


EXAMPLES = {
    "lengths": ([4, 3], [2, 6, 1], [5]),
    "first": ([3], [2, 2], [5]),
    "second": ([4, 1], [3], [2]),
    "length": (3, 1, 5),
    "cut": (2, 1, 4),
    "factor": (-2.0, 3.0, 0.25),
    "beta1": (0.9, 0.5, 0.0),
    "beta2": (0.99, 0.9, 0.0),
    "decay": (0.0, 5.0, 0.1),
    "clip": (0.3, 0.0, 3.0),
    "temperature": (0.5, 1.0, 1.5),
    "top_k": (0, 5, 1),
    "top_p": (1.0, 0.3, 1.0),
    "k": (3, 1, 7),
    "p": (0.6, 0.2, 1),
    "n": (3, 2, 5),
    "most": (4, 9, 1),
    "start": (1, 0, 6),
    "size": (2, 1, 3),
    "seed": (1, 2, 3),
}


def laws_of(contract):
    return [name for name in dir(contract) if name.startswith("test_")]


def run_law(suite, law):
    method = getattr(suite, law)
    if hasattr(method, "hypothesis"):
        test = method.hypothesis.inner_test
        call = lambda **values: test(suite, **values)  # noqa: E731
    else:
        test = call = method
    names = [name for name in inspect.signature(test).parameters if name != "self"]
    for i in range(3 if names else 1):
        call(**{name: EXAMPLES[name][i] for name in names})
