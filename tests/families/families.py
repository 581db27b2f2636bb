"""Which format is measured on which template, and the differences that are known."""

from __future__ import annotations

from compare import DAY, Family

_LINE_END = "the line end after the stop: a model has stopped before it"
_DROPS = "the template drops the thinking of the last answer too, so nothing could be trained on it; tinsmith keeps it"
_NO_THINKING = "tinsmith refuses thinking that it could not train; the template drops it"
_OFF = "tinsmith refuses thinking in a format that has it switched off; the template writes it"
_MERGES = (
    "an answer that opens with line ends: the template's text merges them with the header's line end into one token;"
    " tinsmith ends a token where sampling begins, as a model does"
)

_TODAY = {"date": DAY.isoformat()}
_ONLY_FIRST = (
    "of several calls in a message the template keeps the first and drops the others; tinsmith writes them all"
)
_SEEN = (
    "thinking before a call: once the last answer is there, the template drops it; tinsmith keeps it, because the model"
    " saw it when it gave that answer"
)
_GPT_OSS = {"calls": _ONLY_FIRST, "calls, report": _ONLY_FIRST, "steps": _SEEN, "thinking, report": _SEEN}

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
    Family(
        "gpt_oss_medium_reasoning",
        "gptoss.jinja",
        "gpt_oss",
        options=_TODAY,
        thinking_key="thinking",
        training="gptoss_training.jinja",
        marks_more=("<|start|>assistant",),
        why="the header, which the prompt supplies",
        differs=_GPT_OSS,
    ),
    Family(
        "gpt_oss_high_reasoning",
        "llama_cpp/openai-gpt-oss-120b.jinja",
        "gpt_oss",
        variables={"reasoning_effort": "high"},
        options=_TODAY,
        thinking_key="thinking",
        differs=_GPT_OSS,
    ),
)
