"""Which format is measured on which template, and the differences that are known."""

from __future__ import annotations

from compare import Family

_LINE_END = "the line end after the stop: a model has stopped before it"
_DROPS = "the template drops the thinking of the last answer too, so nothing could be trained on it; tinsmith keeps it"
_NO_THINKING = "tinsmith refuses thinking that it could not train; the template drops it"
_OFF = "tinsmith refuses thinking in a format that has it switched off; the template writes it"
_MERGES = (
    "an answer that opens with line ends: the template's text merges them with the header's line end into one token;"
    " tinsmith ends a token where sampling begins, as a model does"
)

FAMILIES: tuple[Family, ...] = (
    Family("qwen3", "qwen3.jinja", "qwen3", differs={"white space": _MERGES}),
    Family(
        "qwen3_disable_thinking",
        "qwen3.jinja",
        "qwen3",
        {"enable_thinking": False},
        differs={
            "white space": _MERGES,
            "*": _OFF,
        },
    ),
    Family(
        "qwen3_instruct",
        "qwen3_instruct_2507.jinja",
        "qwen3",
        training="qwen3_instruct_2507_training.jinja",
        marks_more=("\n",),
        why=_LINE_END,
        differs={"white space": _MERGES, "*": _NO_THINKING},
    ),
    Family(
        "qwen3_preserve_thinking",
        "qwen3_training.jinja",
        "qwen3",
        training="qwen3_training.jinja",
        marks_more=("\n",),
        why=_LINE_END,
    ),
)
