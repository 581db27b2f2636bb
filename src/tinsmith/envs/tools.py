"""Tools: typed Python functions that a model may call."""

from __future__ import annotations

import asyncio
import inspect
import json
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from attrs import field, frozen

from tinsmith.domain.episodes import StopReason
from tinsmith.domain.errors import ConfigError, DeadlineError, WorldError
from tinsmith.domain.messages import Message, Tool, ToolCall, sound
from tinsmith.envs.message import MessageStep
from tinsmith.ports.tools import ToolServer

MAX_DEPTH = 64
"""Lists and objects of arguments in each other."""

_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}


class ToolError(Exception):
    """Raised in a tool for a mistake of the model's; its text is what the model reads. Anything else that a tool raises
    is the world's failure."""


class ToolFailure(WorldError):
    """A tool failed: not the model's mistake."""


@frozen(kw_only=True)
class ToolResult:
    """What a tool gives beside plain text."""

    text: str
    stop: bool = False
    """End the episode."""
    metrics: Mapping[str, float] = field(factory=dict)


@frozen(eq=False)
class ToolFunction:
    """A function with the schema of its arguments. `call` it with JSON text."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema."""
    function: Callable[..., Any]
    convert: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda arguments: arguments
    """Checks JSON arguments and gives those of the function; raises ToolError."""

    @cached_property
    def tool(self) -> Tool:
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return Tool({"type": "function", "function": function})


def tool(function: Callable[..., Any] | None = None, *, name: str | None = None, description: str | None = None) -> Any:
    """Make a tool of a function, synchronous or not, as a decorator.

    Arguments are str, int, float, bool, Literal, list, dict with str keys, or None beside one of these; an `Annotated`
    text describes one. The docstring's first paragraph describes the tool. It gives text, JSON, or a `ToolResult`.
    Raises ConfigError for a signature without types or with others.
    """
    if function is None:
        return lambda f: tool(f, name=name, description=description)
    title = name or str(getattr(function, "__name__", "tool"))
    hints = typing.get_type_hints(function, include_extras=True)
    properties: dict[str, Any] = {}
    kinds: dict[str, Any] = {}
    required = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"tool {title!r}: *args, **kwargs and positional-only arguments have no names in JSON")
        if parameter.name not in hints:
            raise ConfigError(f"tool {title!r}: argument {parameter.name!r} has no type")
        kinds[parameter.name] = hints[parameter.name]
        properties[parameter.name] = _schema(hints[parameter.name], f"tool {title!r}, argument {parameter.name!r}")
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    text = description or (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")

    def convert(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if unknown := [key for key in arguments if key not in kinds]:
            raise ToolError(f"{title} has no argument {unknown[0]!r}; it has {', '.join(kinds) or 'none'}")
        if missing := [key for key in required if key not in arguments]:
            raise ToolError(f"{title} needs the argument {missing[0]!r}")
        return {key: _value(value, kinds[key], key) for key, value in arguments.items()}

    return ToolFunction(title, text, schema, function, convert)


def _schema(kind: Any, where: str) -> dict[str, Any]:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        said = [a for a in args[1:] if isinstance(a, str)]
        return {**_schema(args[0], where), **({"description": said[0]} if said else {})}
    if kind in _NAMES:
        return {"type": _NAMES[kind]}
    if kind is type(None):
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(a, where) for a in args]}
    if origin is list:
        return {"type": "array", "items": _schema(args[0], where)}
    if origin is dict and args[0] is str:
        return {"type": "object", "additionalProperties": _schema(args[1], where)}
    raise ConfigError(f"{where}: {kind} has no form in JSON here; take str, int, float, bool, Literal, list or dict")


def _value(value: Any, kind: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _value(value, args[0], where)
    if origin is Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return value
        raise ToolError(f"{where} must be one of {', '.join(json.dumps(a) for a in args)}, not {_said(value)}")
    if origin in (Union, UnionType):
        for option in args:
            try:
                return _value(value, option, where)
            except ToolError:
                continue
        raise ToolError(f"{where} cannot be {_said(value)}")
    if origin is list and isinstance(value, list):
        return [_value(item, args[0], f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _value(item, args[1], f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)  # 3.0 is an integer in JSON
    if kind is type(None) and value is None:
        return None
    if kind in _NAMES and type(value) is kind:
        return value
    raise ToolError(f"{where} must be {_schema(kind, where).get('type')}, not {_said(value)}")


def _said(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _too_deep(value: Any, left: int = MAX_DEPTH) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left < 0 or any(_too_deep(item, left - 1) for item in inner)


def served_tools(server: ToolServer) -> tuple[ToolFunction, ...]:
    """The tools of a server, such as `bootstrap.open_mcp` opens. What it refuses is told to the model; that it fails,
    or is gone, is the world's failure. A server that keeps something between calls keeps it between episodes too: open
    one for each environment then, and close it with that."""
    return tuple(_served(server, tool) for tool in server.tools)


def _served(server: ToolServer, tool: Tool) -> ToolFunction:
    async def call(**arguments: Any) -> str:
        reply = await server.call(tool.name, arguments)
        if reply.refused:
            raise ToolError(reply.text)
        return reply.text

    function = tool.definition["function"]
    return ToolFunction(tool.name, function.get("description", ""), function["parameters"], call)


def _functions(values: Iterable[ToolFunction]) -> tuple[ToolFunction, ...]:
    return tuple(values)


@frozen(eq=False)
class ToolBox:
    """Tools by name, run with a deadline and a bound of what they may say. Synchronous ones run on threads.

    A thread cannot be stopped: what must be, belongs into a sandbox or an asynchronous tool.
    """

    functions: tuple[ToolFunction, ...] = field(converter=_functions)
    timeout_s: float = 60.0
    """Seconds a call may take; beyond it the world failed: DeadlineError."""
    max_chars: int = 32_000
    """Characters of a result; what is beyond is cut, and that is said."""
    threads: int = 32
    _pool: list[ThreadPoolExecutor] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        names = [f.name for f in self.functions]
        if doubled := {n for n in names if names.count(n) > 1}:
            raise ConfigError(f"two tools are called {sorted(doubled)[0]!r}")

    @property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(f.tool for f in self.functions)

    async def call(self, call: ToolCall) -> tuple[Message, ToolResult]:
        """The tool's message and what else it gave. A mistake of the model's (a tool that there is not, arguments that
        do not fit) is told in the message; ToolFailure or DeadlineError for any other failure."""
        try:
            result = await self._run(call)
        except ToolError as error:
            result = ToolResult(text=f"error: {error}", metrics={"tool_error": 1.0})
        # What a model wrote may come back, and JSON can write halves of surrogate pairs, which no message can hold.
        text = str(sound(result.text))
        if len(text) > self.max_chars:
            text = f"{text[: self.max_chars]}\n[{len(text) - self.max_chars} characters more were cut]"
        return Message("tool", text, tool_call_id=call.id, name=call.name), result

    async def _run(self, call: ToolCall) -> ToolResult:
        function = next((f for f in self.functions if f.name == call.name), None)
        if function is None:
            known = ", ".join(f.name for f in self.functions)
            raise ToolError(f"there is no tool {call.name!r}; there are {known or 'none'}")
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise ToolError(f"the arguments of {call.name} are no JSON: {error}") from None
        if not isinstance(arguments, dict):
            raise ToolError(f"the arguments of {call.name} must be an object, not {_said(arguments)}")
        if _too_deep(arguments):
            raise ToolError(f"the arguments of {call.name} hold more than {MAX_DEPTH} lists or objects in each other")
        given = function.convert(sound(arguments))
        try:
            async with asyncio.timeout(self.timeout_s):
                if inspect.iscoroutinefunction(function.function):
                    value = await function.function(**given)
                else:
                    value = await self._threaded(lambda: function.function(**given))
                    if isinstance(value, Awaitable):
                        value = await value
        except (ToolError, DeadlineError, WorldError):
            raise
        except TimeoutError as error:
            raise DeadlineError(f"tool {call.name} gave no result within {self.timeout_s:g} s") from error
        except Exception as error:
            raise ToolFailure(f"tool {call.name} failed: {type(error).__name__}: {error}") from error
        if isinstance(value, ToolResult):
            return value
        return ToolResult(text=value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))

    async def _threaded(self, work: Callable[[], Any]) -> Any:
        if not self._pool:
            self._pool.append(ThreadPoolExecutor(self.threads, thread_name_prefix="tool"))
        return await asyncio.get_running_loop().run_in_executor(self._pool[0], work)

    def close(self) -> None:
        """Begin no more calls; those that run are left to end."""
        for pool in self._pool:
            pool.shutdown(wait=False, cancel_futures=True)


@frozen(kw_only=True)
class Graded:
    """What an answer earned."""

    reward: float
    metrics: Mapping[str, float] = field(factory=dict)


@frozen(eq=False)
class ToolEnv:
    """A `MessageEnv` in which the policy calls tools until it answers without a call; then the conversation is graded,
    once. A limit grades what there is. Calls of one message run one after another."""

    start: Sequence[Message]
    box: ToolBox
    grade: Callable[[Sequence[Message]], Awaitable[Graded]]
    """What the whole conversation earns."""
    _history: list[Message] = field(factory=list, init=False)

    @property
    def tools(self) -> Sequence[Tool]:
        return self.box.tools

    async def reset(self) -> Sequence[Message]:
        self._history[:] = self.start
        return self.start

    async def step(self, message: Message) -> MessageStep:
        self._history.append(message)
        metrics = {"tool_calls": float(len(message.tool_calls)), "tool_error": 0.0}
        if not message.tool_calls:
            graded = await self.grade(self._history)
            return MessageStep(
                reward=graded.reward, stop_reason=StopReason.COMPLETED, metrics={**metrics, **graded.metrics}
            )
        answers: list[Message] = []
        stopped = False
        for call in message.tool_calls:
            answer, result = await self.box.call(call)
            answers.append(answer)
            stopped = stopped or result.stop
            for name, value in result.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + value
        self._history.extend(answers)
        calls = len(message.tool_calls)
        if stopped:
            graded = await self.grade(self._history)
            return MessageStep(
                reward=graded.reward,
                stop_reason=StopReason.TOOL_STOPPED,
                tool_calls=calls,
                metrics={**metrics, **graded.metrics},
            )
        return MessageStep(reward=0.0, messages=answers, tool_calls=calls, metrics=metrics)

    async def on_limit(self, reason: StopReason) -> float:
        return (await self.grade(self._history)).reward

    async def close(self) -> None:
        """Nothing is held; the box belongs to whoever made it."""
