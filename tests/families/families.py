"""Which format is measured on which template, and the differences that are known."""

from __future__ import annotations

from family_compare import DAY, Family

from tinsmith.domain.messages import Conversation, Message

_LINE_END = "the line end after the stop: a model has stopped before it"
_SUPPLIED = (
    "`<think>` and the line end after it, which the prompt supplies (with the next, where the block is empty: one"
    " token); the line end after the stop"
)
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
_GPT_OSS = {"calls": _ONLY_FIRST, "calls, report": _ONLY_FIRST}
_CLOSED = (("<think></think>", "</think>"),)
_THINK_PAIR = (
    "this copy of the template writes <think></think> where the model card, and the template that the model ships,"
    " write </think> alone; tinsmith follows these"
)
_DISTILL = "the template leaves a single call open, drops calls beside a text, and ends a line between results"
_CUTS = (
    "the template leaves out what an answer says before a `</think>` in its words; where thinking is given apart,"
    " tinsmith takes that for words"
)
_SECOND_CALL = (
    "the template never forgets that it has opened a row of calls, and leaves the next one without its header; tinsmith"
    " opens each"
)
_BREAK = (("assistant_msg = idx -%}", "assistant_msg = idx -%}{%- break -%}"),)
_FIRST_FINAL = (
    "this copy of the template takes the first answer without calls for the last, for lack of a break in its loop"
)
_K25 = "miles-tito-tokenizers==0.1.1:miles_tito_tokenizers/templates/kimi_k25_fixed.jinja"
_UNKNOWN = "the template drops tools, calls and thinking, which the family does not know; tinsmith refuses them"
_NO_ANSWER = "the library refuses an answer without words, which a model may give"
_NO_PREFILL = "the library has no prefill"


def _with_calls(conversation: Conversation) -> list[Message]:
    return [m for m in conversation.messages if m.tool_calls]


def _finals(conversation: Conversation) -> list[Message]:
    return [m for m in conversation.messages if m.role == "assistant" and not m.tool_calls]


def _closes_twice(conversation: Conversation) -> bool:
    return any(m.thinking and "</think>" in m.text for m in conversation.messages)


FAMILIES: tuple[Family, ...] = (
    Family(
        "qwen2_5",
        "qwen2_5.jinja",
        "qwen3",
        training="qwen2_5_training.jinja",
        marks_more=("\n",),
        why=_LINE_END,
        differs={"white space": _MERGES, "*": _NO_THINKING},
    ),
    Family(
        "llama3",
        "llama3.jinja",
        "llama3",
        differs={"*": _UNKNOWN},
        training="llama3_training.jinja",
    ),
    *(
        Family(
            "mistral" if version == 11 else f"mistral_v{version}",
            "mistral-common==1.13.1",
            "mistral",
            oracle=f"mistral_v{version}",
            differs={"prefill": _NO_PREFILL, "empty": _NO_ANSWER},
        )
        for version in (3, 7, 11, 13)
    ),
    Family("tml_v0", "tml-renderers==0.2.1", "inkling", oracle="tml_v0", differs={"prefill": _NO_PREFILL}),
    Family("qwen3", "qwen3.jinja", "qwen3", differs={"white space": _MERGES}),
    Family(
        "qwen3_disable_thinking", "qwen3.jinja", "qwen3", {"enable_thinking": False}, differs={"white space": _MERGES}
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
        "qwen3_vl_instruct",
        "qwen3_vl.jinja",
        "qwen3",
        training="qwen3_vl_training.jinja",
        marks_more=("\n",),
        why=_LINE_END,
        differs={"white space": _MERGES, "*": _NO_THINKING},
    ),
    Family("qwen3_5", "qwen3_5_think.jinja", "qwen3_5"),
    Family("qwen3_5_disable_thinking", "qwen3_5_nothink.jinja", "qwen3_5"),
    Family("qwen3_5_disable_thinking", "qwen3_5_think.jinja", "qwen3_5", {"enable_thinking": False}),
    Family(
        "qwen3_5_preserve_thinking",
        "qwen3_5_think_training.jinja",
        "qwen3_5",
        training="qwen3_5_think_training.jinja",
        marks_more=("<think>\n", "<think>\n\n", "\n"),
        why=_SUPPLIED,
    ),
    Family("qwen3_6", "qwen3_6.jinja", "qwen3_5"),
    Family("qwen3_6_disable_thinking", "qwen3_6.jinja", "qwen3_5", {"enable_thinking": False}),
    Family(
        "qwen3_6_preserve_thinking",
        "qwen3_6.jinja",
        "qwen3_5",
        {"preserve_thinking": True},
        training="qwen3_6_training.jinja",
        marks_more=("<think>\n", "<think>\n\n", "\n"),
        why=_SUPPLIED,
    ),
    *(
        Family(
            f"qwen3_8_{effort}_reasoning",
            "qwen3_8.jinja",
            "qwen3_5",
            {"reasoning_effort": effort},
            training="qwen3_8_training.jinja",
            marks_more=("<think>\n", "<think>\n\n", "\n"),
            why=_SUPPLIED,
        )
        for effort in ("xhigh", "medium", "low")
    ),
    Family("qwen3_8_disable_thinking", "qwen3_8.jinja", "qwen3_5", {"enable_thinking": False}),
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
        chats={_ONLY_FIRST: lambda c: any(len(m.tool_calls) > 1 for m in c.messages)},
        wrapped_tools=True,
    ),
    Family(
        "gpt_oss_high_reasoning",
        "llama_cpp/openai-gpt-oss-120b.jinja",
        "gpt_oss",
        variables={"reasoning_effort": "high"},
        options=_TODAY,
        thinking_key="thinking",
        differs=_GPT_OSS,
        chats={_ONLY_FIRST: lambda c: any(len(m.tool_calls) > 1 for m in c.messages)},
        wrapped_tools=True,
    ),
    Family(
        "deepseekv3",
        "llama_cpp/deepseek-ai-DeepSeek-V3.1.jinja",
        "deepseek_v3_1",
        repairs=_CLOSED,
        chats={_CUTS: _closes_twice},
    ),
    Family(
        "deepseekv3_thinking",
        "llama_cpp/deepseek-ai-DeepSeek-V3.1.jinja",
        "deepseek_v3_1",
        variables={"thinking": True},
        repairs=_CLOSED,
        chats={_CUTS: _closes_twice},
    ),
    *(
        Family(
            format,
            "llama_cpp/deepseek-ai-DeepSeek-V3.1.jinja",
            "deepseek_v3_1",
            variables={"thinking": thinking},
            differs={"*": _THINK_PAIR},
            chats={_THINK_PAIR: lambda c: any(m.role == "assistant" for m in c.messages)},
        )
        for format, thinking in (("deepseekv3", False), ("deepseekv3_thinking", True))
    ),
    Family(
        "deepseek_r1",
        "deepseekv3.jinja",
        "deepseek_v3_1",
        arguments_as_text=True,
        differs={"steps": _SECOND_CALL},
        chats={_SECOND_CALL: lambda c: len(_with_calls(c)) > 1, _CUTS: _closes_twice},
    ),
    Family(
        "deepseek_r1",
        "deepseek_r1_distill.jinja",
        "deepseek_v3_1",
        arguments_as_text=True,
        no_content=True,
        differs={"*": _DISTILL},
        chats={_DISTILL: lambda c: len(_with_calls(c)) > 0, _CUTS: _closes_twice},
    ),
    Family(
        "deepseek_v3_0324",
        "deepseekv3.jinja",
        "deepseek_v3_1",
        repairs=((r"<think>\n", ""),),
        arguments_as_text=True,
        differs={"steps": _SECOND_CALL},
        chats={_SECOND_CALL: lambda c: len(_with_calls(c)) > 1, _CUTS: _closes_twice},
    ),
    Family("kimi_k2", "llama_cpp/Kimi-K2-Thinking.jinja", "kimi_k2", repairs=_BREAK),
    Family(
        "kimi_k2",
        "llama_cpp/Kimi-K2-Thinking.jinja",
        "kimi_k2",
        differs={"thinking, turns": _FIRST_FINAL},
        chats={_FIRST_FINAL: lambda c: len(_finals(c)) > 1 and any(m.thinking for m in c.messages)},
    ),
    Family("kimi_k2_instruct", "llama_cpp/Kimi-K2-Instruct.jinja", "kimi_k2"),
    Family("kimi_k25", _K25, "kimi_k2", numbered_ids=True, typescript=True),
    Family("kimi_k25_disable_thinking", _K25, "kimi_k2", {"thinking": False}, numbered_ids=True, typescript=True),
    Family(
        "kimi_k26_preserve_thinking", _K25, "kimi_k2", {"preserve_thinking": True}, numbered_ids=True, typescript=True
    ),
    Family(
        "gemma3",
        "gemma3.jinja",
        "small_gemma3",
        differs={"*": _UNKNOWN},
        training="gemma3_training.jinja",
        marks_more=("\n",),
        why=_LINE_END,
    ),
    Family("glm4", "glm4moe.jinja", "glm", training="glm4moe_training.jinja", stops=True),
    Family("glm4_disable_thinking", "glm4moe.jinja", "glm", {"enable_thinking": False}),
    *(
        Family(
            format,
            f"nemotron_3{size}.jinja",
            "nemotron3",
            training=f"nemotron_3{size}_training.jinja",
            marks_more=("\n",),
            why=_LINE_END,
        )
        for format, size in (
            ("nemotron3", "_nano"),
            ("nemotron3", "_super"),
            ("nemotron3_ultra", "_ultra"),
            ("nemotron3_ultra", "_5_lightning"),
        )
    ),
    Family("nemotron3", "llama_cpp/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.jinja", "nemotron3"),
    *(
        Family(f"nemotron3{size}_{name}_thinking", template, "nemotron3", {variable: value})
        for size, template, effort in (
            ("", "nemotron_3_super.jinja", "low"),
            ("_ultra", "nemotron_3_ultra.jinja", "medium"),
        )
        for name, variable, value in (
            (effort, f"{effort}_effort", True),
            ("disable", "enable_thinking", False),
            ("preserve", "truncate_history_thinking", False),
        )
    ),
)
