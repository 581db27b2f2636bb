"""A small world that a search recipe makes itself: people, towns and rivers, the documents that tell of them, and
questions whose answers stand in one document, or behind another."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from attrs import frozen

from tinsmith.domain.documents import Document

PEOPLE, TOWNS, RIVERS = 120, 40, 12
CRAFTS = ("baker", "smith", "weaver", "miller", "painter", "sailor", "tanner", "singer")
_STARTS = ("Ba", "Co", "Du", "Fe", "Go", "Ha", "Ka", "Lo", "Mi", "Na", "Pe", "Ro", "Sa", "To", "Vi", "We")
_ENDS = ("bel", "dan", "fir", "gol", "len", "mar", "nis", "rok", "sil", "tam", "vor", "win")


@frozen
class Person:
    name: str
    craft: str
    town: str


@frozen
class Town:
    name: str
    river: str


def _world() -> tuple[list[Person], list[Town]]:
    rng = random.Random("small world")
    names = [start + end for start in _STARTS for end in _ENDS]
    rng.shuffle(names)
    rivers, towns_, people = names[:RIVERS], names[RIVERS : RIVERS + TOWNS], names[RIVERS + TOWNS :][:PEOPLE]
    towns = [Town(name, rng.choice(rivers)) for name in towns_]
    return [Person(name, rng.choice(CRAFTS), rng.choice(towns_)) for name in people], towns


def documents() -> list[Document]:
    """A document on each person and each town."""
    people, towns = _world()
    told = [(p.name, f"{p.name} is a {p.craft} from {p.town}.") for p in people]
    told += [(t.name, f"{t.name} is a town on the river {t.river}.") for t in towns]
    return [Document(str(i), text, title) for i, (title, text) in enumerate(told)]


@frozen
class Questions:
    """A DatasetSource: of each person two questions that one document answers, and one that takes two."""

    name: str = "small"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        people, towns = _world()
        river = {town.name: town.river for town in towns}
        rows = [
            row
            for p in people
            for row in (
                (f"What town is {p.name} from?", p.town, "one_hop"),
                (f"What is the craft of {p.name}?", p.craft, "one_hop"),
                (f"What river is the town of {p.name} on?", river[p.town], "two_hops"),
            )
        ]
        random.Random("their order").shuffle(rows)
        for question, answer, source in rows:
            yield {"question": question, "golden_answers": [answer], "data_source": source}

    def count(self) -> int:
        return 3 * PEOPLE
