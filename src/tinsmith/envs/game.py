"""Games of several players, each a policy with an episode of its own."""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from attrs import field, frozen

from tinsmith.domain.episodes import Episode, StopReason
from tinsmith.domain.errors import ConfigError
from tinsmith.domain.messages import Message, Tool
from tinsmith.domain.tokens import Ints
from tinsmith.envs.base import Env, EpisodeOver, Speaker
from tinsmith.envs.message import MessageStep, ParseErrors, RenderedEnv
from tinsmith.ports.sampler import Sampler, SamplingParams
from tinsmith.rendering import Renderer


class Game(Protocol):
    """The rules of one game, without any waiting: who moves, what they see, what a move does."""

    @property
    def players(self) -> int: ...
    @property
    def turn(self) -> int | None:
        """Whose move it is; None when the game is over."""
        ...

    def observe(self, player: int) -> Sequence[Message]:
        """What the player reads before a move: all that is new to them since the last one. Called once a move."""
        ...

    def act(self, player: int, text: str) -> None:
        """Make a move. One that breaks the rules is dealt with by the rules."""
        ...

    def quit(self, player: int) -> None:
        """The player makes no more moves. The game must end or go on without them."""
        ...

    def reward(self, player: int) -> float:
        """What the player earned, once the game is over or they quit."""
        ...

    def metrics(self, player: int) -> Mapping[str, float]: ...


class Table:
    """One game under way. Each seat is the environment of one player; a player who has nothing to do waits until it is
    their turn or the game is over, which it also is when another quits."""

    def __init__(self, game: Game) -> None:
        self._game = game
        self._changed = asyncio.Condition()
        self._gone: set[int] = set()

    def seats(self) -> list[Seat]:
        return [Seat(self, player) for player in range(self._game.players)]

    async def wait(self, player: int) -> Sequence[Message] | None:
        """What the player reads before their next move; None when there is none."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._game.turn in (None, player) or player in self._gone)
            if self._game.turn is None or player in self._gone:
                return None
            return self._game.observe(player)

    async def act(self, player: int, text: str) -> None:
        async with self._changed:
            if self._game.turn == player:
                self._game.act(player, text)
            self._changed.notify_all()

    async def quit(self, player: int) -> None:
        async with self._changed:
            if player not in self._gone:
                self._gone.add(player)
                if self._game.turn is not None:
                    self._game.quit(player)
            self._changed.notify_all()

    def result(self, player: int) -> tuple[float, Mapping[str, float]]:
        return self._game.reward(player), self._game.metrics(player)


@frozen(eq=False)
class Seat:
    """A `MessageEnv`: one player's side of a game."""

    table: Table
    player: int
    tools: Sequence[Tool] = ()

    async def reset(self) -> Sequence[Message]:
        messages = await self.table.wait(self.player)
        if messages is None:
            reward, metrics = self.table.result(self.player)
            raise EpisodeOver(reward, metrics=metrics)
        return messages

    async def step(self, message: Message) -> MessageStep:
        await self.table.act(self.player, message.text)
        messages = await self.table.wait(self.player)
        if messages is not None:
            return MessageStep(reward=0.0, messages=tuple(messages))
        reward, metrics = self.table.result(self.player)
        return MessageStep(reward=reward, stop_reason=StopReason.COMPLETED, metrics=metrics)

    async def quit(self) -> float:
        await self.table.quit(self.player)
        return self.table.result(self.player)[0]

    async def on_limit(self, reason: StopReason) -> float:
        return await self.quit()

    async def close(self) -> None:
        await self.table.quit(self.player)


@frozen(eq=False, kw_only=True)
class SelfPlay:
    """A `GroupBuilder`: G players at G / n tables, all of them the policy, all of their tokens trained."""

    problem: str
    tags: tuple[str, ...]
    game: Callable[[], Game]
    """Makes a game, as it stands at the start."""
    renderer: Renderer
    parse_errors: ParseErrors = field(factory=ParseErrors)
    solution: Speaker | None = None
    reward_range: tuple[float, float] | None = None

    @property
    def coupled(self) -> bool:
        return True

    def make(self, n: int) -> Sequence[Env]:
        envs: list[Env] = []
        while len(envs) < n:
            seats = Table(self.game()).seats()
            if n % len(seats):
                raise ConfigError(f"group_size={n}: a multiple of {len(seats)}, the players of a game")
            envs += [RenderedEnv(env=s, renderer=self.renderer, parse_errors=self.parse_errors) for s in seats]
        return envs

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)


Opponent = Callable[[Game, int], str]
"""The move of a player who is no policy: (game, player) -> text."""


class Against:
    """A `Game` for the one player `seat`; the others are played by `opponent`."""

    def __init__(self, game: Game, seat: int, opponent: Opponent) -> None:
        self._game = game
        self._seat = seat
        self._opponent = opponent
        self._play()

    @property
    def game(self) -> Game:
        """What is played."""
        return self._game

    def _play(self) -> None:
        while (turn := self._game.turn) is not None and turn != self._seat:
            self._game.observe(turn)
            self._game.act(turn, self._opponent(self._game, turn))

    @property
    def players(self) -> int:
        return 1

    @property
    def turn(self) -> int | None:
        return None if self._game.turn is None else 0

    def observe(self, player: int) -> Sequence[Message]:
        return self._game.observe(self._seat)

    def act(self, player: int, text: str) -> None:
        self._game.act(self._seat, text)
        self._play()

    def quit(self, player: int) -> None:
        self._game.quit(self._seat)

    def reward(self, player: int) -> float:
        return self._game.reward(self._seat)

    def metrics(self, player: int) -> Mapping[str, float]:
        return self._game.metrics(self._seat)


@frozen
class Move:
    text: str
    forgot: bool
    """It was made without the whole conversation."""


@frozen(eq=False, kw_only=True)
class ModelPlayer:
    """A model that plays and is not trained, on any backend."""

    sampler: Sampler
    renderer: Renderer
    max_tokens: int
    temperature: float = 1.0
    seed: int = 0

    async def move(self, history: Sequence[Message], begun: int = 0) -> Move | None:
        """What it says next, with as many of the newest turns before it as its context holds; None where that is no
        room for the last one. The first `begun` messages, or those of the system among them, are always there. The same
        history gives the same move."""
        prompt, forgot = self._prompt(history, begun)
        if prompt is None:
            return None
        drawn = hashlib.blake2b(prompt.tobytes(), digest_size=8, key=str(self.seed).encode()).digest()
        params = SamplingParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop_ids=self.renderer.stop.ids,
            stop=self.renderer.stop.strings,
            seed=int.from_bytes(drawn, "big") >> 1,
        )
        said = (await self.sampler.sample(prompt, params)).completions[0]
        return Move(self.renderer.parse(said.tokens, prompt=prompt).message.text, forgot)

    def has_room(self, history: Sequence[Message]) -> bool:
        return self._fitting(history) is not None

    def _prompt(self, history: Sequence[Message], begun: int) -> tuple[Ints | None, bool]:
        """(what it reads, whether that is less than all)."""
        whole = self._fitting(history)
        if whole is not None:
            return whole, False
        rules = [m for m in history[:begun] if m.role == "system"]
        # The turns that follow begin with what was told after rules, and with an answer after a first message.
        first, kept = ("user", rules) if rules else ("assistant", list(history[:begun]))
        starts = [i for i in range(len(kept), len(history)) if history[i].role == first]
        at = bisect_left(starts, True, key=lambda start: self._fitting([*kept, *history[start:]]) is not None)
        return (self._fitting([*kept, *history[starts[at] :]]) if at < len(starts) else None), True

    def _fitting(self, history: Sequence[Message]) -> Ints | None:
        prompt = self.renderer.generation_prompt(history).ids
        return prompt if len(prompt) + self.max_tokens <= self.sampler.context else None


class AgainstModel:
    """A `MessageEnv`: the seat of one player of a game whose other players are a model, each with a conversation of its
    own. The policy's step takes as long as the others' moves, so no wait is without the deadline of a step.

    What the policy says is read by the others, and must not win by its length. Where a conversation is longer than a
    model's context the model forgets the oldest turns and the game goes on (`opponent_forgot` counts such moves). One
    message that it has no room for at all ends the episode by CONTEXT_OVERFLOW (`opponent_overflow`), at what giving up
    costs the policy; before the policy said anything, at nothing."""

    tools: Sequence[Tool] = ()

    def __init__(self, game: Game, seat: int, player: ModelPlayer) -> None:
        self._game, self._seat, self._player = game, seat, player
        self._histories: dict[int, list[Message]] = {}
        self._begun: dict[int, int] = {}
        """Of each other player how many messages it read before its first move."""

    async def reset(self) -> Sequence[Message]:
        told = await self._others()
        if told["opponent_overflow"]:
            raise EpisodeOver(0.0, StopReason.CONTEXT_OVERFLOW, metrics=told)
        if self._game.turn is None:
            raise EpisodeOver(self._game.reward(self._seat), metrics=self._game.metrics(self._seat))
        return self._game.observe(self._seat)

    async def step(self, message: Message) -> MessageStep:
        self._game.act(self._seat, message.text)
        told = await self._others()
        if told["opponent_overflow"]:
            self._game.quit(self._seat)
            metrics = {**self._game.metrics(self._seat), **told}
            return MessageStep(reward=0.0, stop_reason=StopReason.CONTEXT_OVERFLOW, metrics=metrics)  # on_limit pays
        if self._game.turn is not None:
            return MessageStep(reward=0.0, messages=tuple(self._game.observe(self._seat)), metrics=told)
        reward, metrics = self._game.reward(self._seat), {**self._game.metrics(self._seat), **told}
        return MessageStep(reward=reward, stop_reason=StopReason.COMPLETED, metrics=metrics)

    async def _others(self) -> dict[str, float]:
        """The others move until it is the policy's turn, or one has no room."""
        forgot = 0
        while (turn := self._game.turn) is not None and turn != self._seat:
            history = self._histories.setdefault(turn, [])
            history += self._game.observe(turn)
            move = await self._player.move(history, self._begun.setdefault(turn, len(history)))
            if move is None:
                return {"opponent_forgot": float(forgot), "opponent_overflow": 1.0}
            forgot += move.forgot
            history.append(Message.assistant(move.text))
            self._game.act(turn, move.text)
        return {"opponent_forgot": float(forgot), "opponent_overflow": 0.0}

    async def quit(self) -> float:
        if self._game.turn is not None:
            self._game.quit(self._seat)
        return self._game.reward(self._seat)

    async def on_limit(self, reason: StopReason) -> float:
        return await self.quit()

    async def close(self) -> None:
        """Nothing is held."""


@frozen(eq=False, kw_only=True)
class ModelMatch:
    """A `GroupBuilder`: G games of one policy player each, against a model."""

    problem: str
    tags: tuple[str, ...]
    game: Callable[[], Game]
    seat: int
    player: ModelPlayer
    renderer: Renderer
    coupled: bool = False
    solution: Speaker | None = None
    reward_range: tuple[float, float] | None = None

    def make(self, n: int) -> Sequence[Env]:
        seats = [AgainstModel(self.game(), self.seat, self.player) for _ in range(n)]
        return [RenderedEnv(env=seat, renderer=self.renderer) for seat in seats]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)
