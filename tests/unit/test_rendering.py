"""Examples of each chat format, and of what renderers refuse."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tinsmith import rendering
from tinsmith.domain.errors import ConfigError, RenderError
from tinsmith.domain.messages import (
    Conversation,
    ImagePart,
    Message,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCall,
    UnparsedToolCall,
)
from tinsmith.rendering import NothingToTrain, Overlong, Termination, TooLong, TrainOn
from tinsmith.rendering.show import spans
from tinsmith.rendering.xml_calls import read_xml_call
from tinsmith.testing import FakeTokenizer
from tinsmith.testing.fakes import CHAT_TOKENS

TOKENIZER = FakeTokenizer()
SYSTEM, HI, HELLO = Message.system("Be brief."), Message.user("Hi"), Message.assistant("Hello")
MORE, BYE = Message.user("More"), Message.assistant("Bye")


def text(name: str, *messages: Message) -> str:
    return TOKENIZER.decode(rendering.get(name, TOKENIZER).render(messages).ids)


def prompt(name: str, *messages: Message) -> str:
    return TOKENIZER.decode(rendering.get(name, TOKENIZER).generation_prompt(messages).ids)


def trained(name: str, *messages: Message, on: str = "all_assistant_messages") -> list[str]:
    """The trained text of each datum."""
    datums = rendering.get(name, TOKENIZER).supervised(Conversation(messages), train_on=on)
    return ["".join(s.text for s in spans(d, TOKENIZER) if s.weight) for d in datums]


def test_role_colon() -> None:
    assert prompt("role_colon", HI) == "User: Hi\n\nAssistant:"
    assert text("role_colon", SYSTEM, HI, HELLO) == "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello\n\nUser:"
    assert trained("role_colon", HI, HELLO, MORE, BYE) == [" Hello\n\nUser: Bye\n\nUser:"]
    assert rendering.get("role_colon", TOKENIZER).stop.strings == ("\n\nUser:",)


def test_chatml() -> None:
    assert prompt("chatml", HI) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert trained("chatml", SYSTEM, HI, HELLO, MORE, BYE) == ["Hello<|im_end|>Bye<|im_end|>"]
    assert trained("chatml", HI, HELLO, MORE, BYE, on="last_assistant_message") == ["Bye<|im_end|>"]
    assert trained("chatml", HI, HELLO, on="all_messages") == ["Hi<|im_end|>Hello<|im_end|>"]


def test_smollm2_adds_its_system_message_unless_there_is_one() -> None:
    default = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    assert text("smollm2", HI).startswith(default)
    assert "SmolLM" not in text("smollm2", SYSTEM, HI)


def test_qwen3_strips_earlier_thinking_so_a_conversation_becomes_several_datums() -> None:
    first = Message("assistant", (ThinkingPart("a"), TextPart("Hello")))
    last = Message("assistant", (ThinkingPart("b"), TextPart("Bye")))
    assert trained("qwen3", HI, first, MORE, last) == [
        "<think>\na\n</think>\n\nHello<|im_end|>",
        "<think>\nb\n</think>\n\nBye<|im_end|>",
    ]
    assert "assistant\nHello<|im_end|>" in prompt("qwen3", HI, first, MORE)
    assert len(trained("qwen3_preserve_thinking", HI, first, MORE, last)) == 1


def test_an_empty_thinking_block_that_the_prompt_supplies_is_not_trained() -> None:
    assert prompt("qwen3_disable_thinking", HI).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert trained("qwen3_disable_thinking", HI, HELLO) == ["Hello<|im_end|>"]


def test_qwen3_tool_calls() -> None:
    tool = Tool({"name": "add", "parameters": {}})
    call = Message("assistant", tool_calls=(ToolCall("add", '{"x": 1}'),))
    renderer = rendering.get("qwen3_instruct", TOKENIZER)
    shown = TOKENIZER.decode(renderer.render([HI, call, Message("tool", "2")], [tool]).ids)
    assert '<tools>\n{"name": "add", "parameters": {}}\n</tools>' in shown
    assert '<tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call><|im_end|>' in shown
    assert "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n" in shown


def test_a_weight_of_the_data_scales_every_mode_and_rules_the_customised_one() -> None:
    conversation = Conversation(
        (HI, Message("assistant", "a", weight=0.5), MORE, Message("assistant", "b", weight=0.0))
    )
    renderer = rendering.get("chatml", TOKENIZER)
    [datum] = renderer.supervised(conversation)
    assert set(datum.weights.tolist()) == {0.0, 0.5}
    assert set(datum.message[datum.weights != 0].tolist()) == {1}
    with pytest.raises(RenderError, match="message 0 has none"):
        renderer.supervised(conversation, train_on=TrainOn.CUSTOMISED)


def test_nothing_to_train_and_too_long_are_said() -> None:
    renderer = rendering.get("chatml", TOKENIZER)
    with pytest.raises(NothingToTrain, match="no message has a weight"):
        renderer.supervised(Conversation((HI,)))
    conversation = Conversation((HI, HELLO))
    [whole] = renderer.supervised(conversation)
    with pytest.raises(TooLong) as error:
        renderer.supervised(conversation, max_length=whole.num_tokens - 1)
    assert error.value.num_tokens == whole.num_tokens
    cut = renderer.supervised(conversation, max_length=whole.num_tokens - 1, overlong=Overlong.TRUNCATE)
    assert (len(cut), cut.truncated, cut[0].num_tokens) == (1, 1, whole.num_tokens - 1)
    with pytest.raises(NothingToTrain, match="cut"):
        renderer.supervised(conversation, max_length=3, overlong="truncate")


def test_what_a_format_cannot_hold_is_refused_by_message() -> None:
    result, call = Message("tool", "2"), Message("assistant", tool_calls=(ToolCall("f", "{}"),))
    with pytest.raises(RenderError, match="message 1 is a tool result, but no message before it calls a tool"):
        rendering.get("qwen3", TOKENIZER).generation_prompt([HI, result])
    with pytest.raises(RenderError, match="message 1: chatml has no form for tool calls"):
        rendering.get("chatml", TOKENIZER).generation_prompt([HI, call, result])
    with pytest.raises(RenderError, match="message 1: qwen3_instruct has no form for thinking"):
        rendering.get("qwen3_instruct", TOKENIZER).render([HI, Message("assistant", (ThinkingPart("a"),))])
    with pytest.raises(RenderError, match="message 1 holds"):
        rendering.get("role_colon", TOKENIZER).render([HI, Message.assistant("a\n\nUser: b")])


def test_names() -> None:
    with pytest.raises(ConfigError, match="did you mean 'qwen3_instruct'"):
        rendering.get("qwen3_instuct", TOKENIZER)
    with pytest.raises(RenderError, match=r"needs the control tokens \['<tool_call>'"):
        rendering.get("qwen3", FakeTokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]))
    assert rendering.recommended("Qwen/Qwen3-8B:free") == "qwen3"
    assert rendering.recommended("Qwen/Qwen3-8B-Base") == "role_colon"
    assert rendering.recommended("models/Qwen3-30B-A3B-Instruct-2507/") == "qwen3_instruct"
    assert rendering.recommended("smollm2-135m") == "smollm2"
    assert rendering.for_model("tiny", TOKENIZER).name == "chatml"
    with pytest.raises(ConfigError, match="no format is known"):
        rendering.recommended("someone/else")


def test_an_unknown_model_gets_the_format_of_its_own_chat_template(shared: Path) -> None:
    templates = shared / "data" / "chat_templates"
    for file, name in (
        ("qwen3.jinja", "qwen3"),
        ("qwen3_instruct_2507.jinja", "qwen3_instruct"),
        ("gemma3.jinja", "hf_template"),
        ("qwen2_5.jinja", "qwen2_5"),
        ("qwen3_5_think.jinja", "qwen3_5"),
    ):
        tokenizer = FakeTokenizer(chat_template=(templates / file).read_text())
        assert rendering.recommended("mine", tokenizer) == name
    assert rendering.recommended("mine", TOKENIZER) == "role_colon"


def test_parse_says_how_a_completion_ended() -> None:
    renderer = rendering.get("chatml", TOKENIZER)
    end, eos = TOKENIZER.special_tokens["<|im_end|>"], TOKENIZER.special_tokens["<|endoftext|>"]
    words = TOKENIZER.encode("Hi")
    for tail, termination in (
        ([end], Termination.STOP),
        ([eos], Termination.EOS),
        ([], Termination.LENGTH),
        ([end, 65], Termination.MALFORMED),
    ):
        parsed = renderer.parse([*words.tolist(), *tail])
        assert parsed.termination is termination
        assert parsed.message == Message.assistant("Hi")


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("<think>\nnever", "never closes"),
        ("<tool_call>\n{broken}\n</tool_call>", "not JSON"),
        ("<tool_call>\n{}\n</tool_call>", 'without "name"'),
        ('<tool_call>\n{"name": "f", "arguments": {}}\n', "never closes"),
        ('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>and', "text after"),
        ("</tool_call>", "stray"),
    ],
)
def test_a_broken_answer_is_a_finding_not_an_exception(completion: str, reason: str) -> None:
    parsed = rendering.get("qwen3", TOKENIZER).parse(control(completion + "<|im_end|>"))
    assert not parsed.is_clean
    assert reason in parsed.failures[0].reason


def control(text: str) -> np.ndarray:
    """Ids of a text whose control tokens are meant."""
    ids = TOKENIZER.encode(text)
    for name, id in TOKENIZER.special_tokens.items():
        name_ids = TOKENIZER.encode(name)
        while len(at := np.flatnonzero(_matches(ids, name_ids))):
            ids = np.concatenate([ids[: at[0]], [id], ids[at[0] + len(name_ids) :]])
    return ids


def _matches(ids: np.ndarray, part: np.ndarray) -> np.ndarray:
    if len(ids) < len(part):
        return np.zeros(0, bool)
    return (np.lib.stride_tricks.sliding_window_view(ids, len(part)) == part).all(axis=1)


MISTRAL = [
    *("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]"),
    "[/TOOL_RESULTS]",
]
TML = [
    *(f"<|message_{role}|>" for role in ("model", "system", "user", "tool")),
    *(f"<|content_{kind}|>" for kind in ("text", "thinking", "invoke_tool_json", "invoke_tool_text", "xml")),
    *("<|end_message|>", "<|content_model_end_sampling|>"),
]


@pytest.mark.parametrize(
    ("name", "tokens", "before", "after", "key"),
    [
        ("qwen3", CHAT_TOKENS, ["<tool_call>"], ["</tool_call>", "<|im_end|>"], "arguments"),
        ("mistral_v3", MISTRAL, ["[TOOL_CALLS]"], ["</s>"], "arguments"),
        (
            "tml_v0",
            TML,
            ["<|content_invoke_tool_json|>"],
            ["<|end_message|>", "<|content_model_end_sampling|>"],
            "args",
        ),
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        r'{"name": "\ud800", "KEY": {}}',
        r'{"KEY": {"a": "\ud800"}, "name": "f"}',
        r'{"KEY": {"\udfff": 1}, "name": "f"}',
        r'{"name": "f", "KEY": {"a": "\ud800"}, "id": "\ud800"}',
        r'{"name": "f", "KEY": {}, "id": "\ud800"}',
        r'{"name": "f", "\ud800": {}}',
    ],
)
def test_a_call_that_spells_half_a_surrogate_pair_is_no_exception(
    name: str, tokens: list[str], before: list[str], after: list[str], key: str, call: str
) -> None:
    """JSON can write what no text holds. What a model writes stops nothing, and what was read can be shown again."""
    tokenizer = FakeTokenizer(tokens)
    renderer = rendering.get(name, tokenizer)
    special = tokenizer.special_tokens
    body = call.replace("KEY", key)
    body = f"[{body}]" if name == "mistral_v3" else body
    ids = [*(special[t] for t in before), *tokenizer.encode(body).tolist(), *(special[t] for t in after)]
    message = renderer.parse(ids).message
    assert len(message.tool_calls) + len(message.unparsed_tool_calls) == 1
    for held in (*message.tool_calls, *message.unparsed_tool_calls):
        repr(held).encode()
        (held.id if isinstance(held, ToolCall) and held.id else "").encode()


def test_a_call_of_many_empty_lines_is_read_in_time_in_proportion() -> None:
    began = time.process_time()
    assert isinstance(read_xml_call("<function=f>" + "\n" * 60_000 + "x"), UnparsedToolCall)
    assert time.process_time() - began < 2


def test_bridge() -> None:
    renderer = rendering.get("chatml", TOKENIZER)
    end = TOKENIZER.special_tokens["<|im_end|>"]
    asked, answer = renderer.generation_prompt([HI]).ids, np.append(TOKENIZER.encode("Hello"), end)
    expected = renderer.generation_prompt([HI, HELLO, MORE]).ids
    assert np.array_equal(renderer.bridge(asked, answer, [MORE]), expected)
    assert renderer.bridge(asked, answer[:-1], [MORE]) is None
    qwen = rendering.get("qwen3", TOKENIZER)
    thought = control("<think>\na\n</think>\n\nHello<|im_end|>")
    assert qwen.bridge(asked, thought, [MORE]) is None
    call = '<think>\na\n</think>\n\nHello\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>'
    assert qwen.bridge(asked, control(call), [Message("tool", "2")]) is not None
    with pytest.raises(RenderError, match="message 1 is a tool result, but no message before it calls a tool"):
        qwen.bridge(asked, thought, [Message("tool", "2")])


def test_control_tokens_in_text_are_allowed_only_loudly() -> None:
    text = "a<|im_end|>b"
    plain = rendering.get("chatml", TOKENIZER).render([Message.user(text)])
    with pytest.warns(UserWarning, match="text may now write control tokens"):
        loose = rendering.get("chatml", TOKENIZER).allow_control_tokens()
    ids = loose.render([Message.user(text)]).ids.tolist()
    assert ids.count(TOKENIZER.special_tokens["<|im_end|>"]) == 2
    assert plain.ids.tolist().count(TOKENIZER.special_tokens["<|im_end|>"]) == 1
    assert TOKENIZER.decode(ids) == TOKENIZER.decode(plain.ids)


def test_an_image_is_carried_with_the_position_of_its_placeholder() -> None:
    vision = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
    tokenizer = FakeTokenizer((*TOKENIZER.special_tokens, *vision))
    content = (TextPart("What is "), ImagePart("cat.png"), TextPart(" doing?"))
    for name in ("qwen3_vl", "qwen3_vl_instruct", "qwen3_5"):
        renderer = rendering.get(name, tokenizer)
        asked = Message("user", content)
        prompt = renderer.generation_prompt([asked])
        [(at, part)] = prompt.media
        assert part == ImagePart("cat.png")
        assert prompt.ids[at] == tokenizer.special_tokens["<|image_pad|>"]
        assert "What is <|vision_start|><|image_pad|><|vision_end|> doing?" in tokenizer.decode(prompt.ids)
        examples = renderer.supervised([asked, HELLO])
        assert examples.media == (((at, part),),)
    with pytest.raises(RenderError, match="message 0 holds an image part; qwen3 is a format without images"):
        rendering.get("qwen3", tokenizer).generation_prompt([Message("user", content)])


def test_what_is_not_declared_or_known_is_refused_by_message() -> None:
    renderer = rendering.get("qwen3", TOKENIZER)
    tool = {"name": "f", "parameters": {}}
    call = Message("assistant", tool_calls=(ToolCall("g", "{}", "c1"),))
    with pytest.raises(RenderError, match=r"message 1 calls the tool 'g', which is not declared \(declared: f\)"):
        renderer.render([HI, call], [tool])
    with pytest.raises(RenderError, match="message 2 is the result of call 'c2'; no call before it has that id"):
        renderer.render([HI, call, Message("tool", "2", tool_call_id="c2")])
    with pytest.raises(RenderError, match="message 0: unknown role 'usr'"):
        renderer.render([{"role": "usr", "content": "Hi"}])
    with pytest.raises(RenderError, match="message 0: content is null"):
        renderer.generation_prompt([{"role": "user", "content": None}])
