"""What a server keeps: its records, and the tables that they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from tinsmith.ports.trainer import Lora

VERSION = 1
TABLES = """
CREATE TABLE sessions (id TEXT PRIMARY KEY, created REAL, finished TEXT, metadata TEXT);
CREATE TABLE models (
    id TEXT PRIMARY KEY, session TEXT, base_model TEXT, lora TEXT, seed INTEGER, created REAL, last_request REAL,
    metadata TEXT, origin TEXT, with_optimizer INTEGER, snapshot TEXT, snapshot_seq INTEGER, last_seq INTEGER);
CREATE TABLE requests (
    model TEXT, seq INTEGER, kind TEXT, body BLOB, result BLOB, content_type TEXT, PRIMARY KEY (model, seq)
) WITHOUT ROWID;
CREATE TABLE samplers (
    id TEXT PRIMARY KEY, session TEXT, base_model TEXT, path TEXT, model TEXT, handle TEXT);
CREATE TABLE checkpoints (
    path TEXT PRIMARY KEY, model TEXT, seq INTEGER, kind TEXT, name TEXT, handle TEXT, created REAL, expires REAL,
    size INTEGER, metadata TEXT);
CREATE INDEX checkpoints_of ON checkpoints (model);
"""

KINDS = {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}
"""The middle of a checkpoint's path, and what lists call it."""


@frozen(kw_only=True)
class Model:
    """One set of weights in training. `origin` is the handle of the state that it began with, if it did with one."""

    id: str
    session: str
    base_model: str
    lora: Lora
    seed: int
    created: float
    last_request: float
    metadata: Mapping[str, Any] | None
    origin: str | None
    with_optimizer: bool
    snapshot: str | None
    snapshot_seq: int
    """Requests up to this one are in the snapshot; later ones are carried out again after a restart."""
    last_seq: int
    """The greatest sequence number that was ever taken."""


@frozen(kw_only=True)
class Checkpoint:
    path: str
    model: str
    seq: int
    """The request that made it."""
    kind: str
    name: str
    handle: str
    created: float
    expires: float | None
    size: int
    metadata: Mapping[str, Any] | None


@frozen(kw_only=True)
class SamplingSession:
    id: str
    session: str
    base_model: str
    path: str | None
    model: str | None
    handle: str | None
    """The state that it samples from; None for the base model."""
