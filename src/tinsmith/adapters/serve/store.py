"""What outlives a server: one SQLite file for records, one directory for states.

Every change is committed before the call returns. In write-ahead mode a commit is in the hands of the system at once,
so that a killed process loses nothing; a power cut may cost the last moments, never the file.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinsmith.adapters.serve.outcome import HttpError, Outcome
from tinsmith.adapters.serve.records import TABLES, VERSION, Checkpoint, Model, SamplingSession
from tinsmith.domain.errors import ConfigError, JournalError, RunLockedError
from tinsmith.ports.trainer import Lora


class Store:
    """Used by one process at a time; RunLockedError for a second. Methods may be called from any thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"dir={directory}: no directory can be made there: {error.strerror}") from error
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(
                directory / "server.sqlite", timeout=1.0, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._db.executescript(f"BEGIN;{TABLES}PRAGMA user_version = {VERSION};COMMIT;")
            elif version != VERSION:
                raise JournalError(
                    f"{directory}: written by another version of this server ({version}); use another dir="
                )
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise RunLockedError(f"{directory}: another server works here; give this one another dir=") from None
            raise JournalError(f"{directory}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{directory}/server.sqlite is no database of this server: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"{self.directory}/server.sqlite: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing: after an error (a full disk) the next one begins from the same records."""
        with self._lock:
            try:
                self._db.execute("BEGIN")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise JournalError(f"{self.directory}/server.sqlite: {error}") from error
                raise

    # Sessions

    def add_session(self, session: str, metadata: Mapping[str, Any] | None) -> None:
        self._run("INSERT INTO sessions VALUES (?, ?, NULL, ?)", session, time.time(), json.dumps(metadata))

    def session(self, session: str) -> tuple[bool, str | None, Mapping[str, Any] | None]:
        """(known, how it was finished, metadata)."""
        rows = self._run("SELECT finished, metadata FROM sessions WHERE id = ?", session)
        return (False, None, None) if not rows else (True, rows[0][0], json.loads(rows[0][1]))

    def finish_session(self, session: str, how: str) -> None:
        self._run("UPDATE sessions SET finished = ? WHERE id = ? AND finished IS NULL", how, session)

    def sessions(self, limit: int, offset: int) -> list[str]:
        return [
            r[0] for r in self._run("SELECT id FROM sessions ORDER BY created DESC LIMIT ? OFFSET ?", limit, offset)
        ]

    # Models

    def add_model(self, model: Model) -> None:
        self._run(
            "INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(model.id, model.session, model.base_model, _lora_text(model.lora), model.seed, model.created),
            *(model.last_request, json.dumps(model.metadata), self._below(model.origin), model.with_optimizer),
            *(self._below(model.snapshot), model.snapshot_seq, model.last_seq),
        )

    def model(self, name: str) -> Model | None:
        rows = self._run("SELECT * FROM models WHERE id = ?", name)
        return self._model(rows[0]) if rows else None

    def models(self, limit: int = -1, offset: int = 0, session: str | None = None) -> tuple[list[Model], int]:
        """(one page, the newest request first; how many there are)."""
        where, values = ("", ()) if session is None else ("WHERE session = ?", (session,))
        rows = self._run(
            f"SELECT * FROM models {where} ORDER BY last_request DESC LIMIT ? OFFSET ?", *values, limit, offset
        )
        return [self._model(row) for row in rows], self._run(f"SELECT count(*) FROM models {where}", *values)[0][0]

    def set_snapshot(self, model: str, handle: str, seq: int) -> None:
        """From here on a restart begins at this state; bodies of requests in it are let go."""
        with self._transaction() as db:
            moved = "UPDATE models SET snapshot = ?, snapshot_seq = ? WHERE id = ?"
            db.execute(moved, (self._below(handle), seq, model))
            db.execute("UPDATE requests SET body = NULL WHERE model = ? AND seq <= ?", (model, seq))

    # Requests that move a model

    def accept(self, model: str, seq: int, kind: str, body: bytes) -> None:
        with self._transaction() as db:
            db.execute("INSERT INTO requests VALUES (?, ?, ?, ?, NULL, NULL)", (model, seq, kind, body))
            db.execute(
                "UPDATE models SET last_request = ?, last_seq = max(last_seq, ?) WHERE id = ?",
                (time.time(), seq, model),
            )

    def give_up(self, model: str, numbers: Sequence[int], outcome: Outcome) -> None:
        """Requests that are never carried out, taken or not; this is what they came to, also after a restart."""
        row = (b"", outcome.body, outcome.content_type)
        with self._transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO requests VALUES (?, ?, 'given_up', ?, ?, ?)",
                [(model, number, *row) for number in numbers],
            )

    def record(self, model: str, seq: int, outcome: Outcome) -> None:
        self._run(
            "UPDATE requests SET result = ?, content_type = ? WHERE model = ? AND seq = ?",
            *(outcome.body, outcome.content_type, model, seq),
        )

    def outcome(self, model: str, seq: int) -> tuple[bool, Outcome | None]:
        """(whether the request was ever taken, what it came to)."""
        rows = self._run("SELECT result, content_type FROM requests WHERE model = ? AND seq = ?", model, seq)
        if not rows:
            return False, None
        return True, None if rows[0][0] is None else Outcome(*rows[0])

    def requests_after(self, model: str, seq: int) -> Iterator[tuple[int, str, bytes, Outcome | None]]:
        rows = self._run(
            "SELECT seq, kind, body, result, content_type FROM requests WHERE model = ? AND seq > ? ORDER BY seq",
            *(model, seq),
        )
        for number, kind, body, result, content_type in rows:
            yield number, kind, body, None if result is None else Outcome(result, content_type)

    def forget_requests(self, model: str, before: int) -> None:
        """Results of requests before this one were had by their client long ago."""
        self._run("DELETE FROM requests WHERE model = ? AND seq < ? AND body IS NULL", model, before)

    def forget_work(self, model: str) -> None:
        """Let go of what only further requests would need; named checkpoints stay."""
        with self._transaction() as db:
            rows = db.execute("SELECT snapshot FROM models WHERE id = ?", (model,)).fetchall()
            db.execute("DELETE FROM requests WHERE model = ?", (model,))
            db.execute("UPDATE models SET snapshot = NULL WHERE id = ?", (model,))
        for (handle,) in rows:
            if handle is not None:
                self.remove_state(str(self._whole(handle)))

    def abandoned(self, before: float) -> list[str]:
        """Sessions that were never finished and whose last request is older."""
        rows = self._run(
            "SELECT id FROM sessions WHERE finished IS NULL AND created < ? AND NOT EXISTS "
            "(SELECT 1 FROM models WHERE session = sessions.id AND last_request >= ?)",
            *(before, before),
        )
        return [row[0] for row in rows]

    # Samplers

    def add_sampler(self, sampler: SamplingSession) -> None:
        self._run(
            "INSERT OR REPLACE INTO samplers VALUES (?, ?, ?, ?, ?, ?)",
            *(sampler.id, sampler.session, sampler.base_model, sampler.path, sampler.model),
            self._below(sampler.handle),
        )

    def sampler(self, name: str) -> SamplingSession | None:
        rows = self._run("SELECT * FROM samplers WHERE id = ?", name)
        names = ("id", "session", "base_model", "path", "model", "handle")
        return (
            SamplingSession(**dict(zip(names, (*rows[0][:5], self._whole(rows[0][5])), strict=True))) if rows else None
        )

    def samplers(self, session: str) -> list[str]:
        return [r[0] for r in self._run("SELECT id FROM samplers WHERE session = ?", session)]

    def unnamed_states(self, session: str) -> list[str]:
        """States of the session's samplers that have no name (any more), and that no other session samples from."""
        rows = self._run(
            "SELECT DISTINCT handle FROM samplers WHERE session = ? AND handle NOT NULL "
            "AND handle NOT IN (SELECT handle FROM checkpoints) AND handle NOT IN (SELECT handle FROM samplers "
            "JOIN sessions ON sessions.id = session WHERE finished IS NULL AND session != ? AND handle NOT NULL)",
            *(session, session),
        )
        return [str(self._whole(row[0])) for row in rows]

    def surplus_samplers(self, model: str, kept: int) -> list[tuple[str, str]]:
        """(id, handle) of a model's unnamed samplers, without the ones that were last made or added again."""
        rows = self._run(
            "SELECT id, handle FROM samplers WHERE model = ? AND path IS NULL ORDER BY rowid DESC LIMIT -1 OFFSET ?",
            *(model, kept),
        )
        return [(name, str(self._whole(handle))) for name, handle in rows]

    def remove_sampler(self, name: str, handle: str) -> None:
        self._run("DELETE FROM samplers WHERE id = ?", name)
        self.remove_state(handle)

    # Checkpoints

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        c, below = checkpoint, self._below(checkpoint.handle)
        old = self._run("SELECT handle FROM checkpoints WHERE path = ? AND handle != ?", c.path, below)
        self._run(
            "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(c.path, c.model, c.seq, c.kind, c.name, below, c.created, c.expires, c.size, json.dumps(c.metadata)),
        )
        for (handle,) in old:
            if not self._run(
                "SELECT 1 FROM samplers JOIN sessions ON sessions.id = session WHERE handle = ? AND finished IS NULL",
                handle,
            ):
                self.remove_state(str(self._whole(handle)))

    def checkpoint(self, path: str) -> Checkpoint:
        """HttpError 404 when there is none, or it has expired."""
        rows = self._run("SELECT * FROM checkpoints WHERE path = ? AND coalesce(expires, 1e18) > ?", path, time.time())
        if not rows:
            raise HttpError(404, f"there is no checkpoint {path}")
        return self._checkpoint(rows[0])

    def weights(self, path: str) -> Checkpoint:
        """A checkpoint that can be trained or sampled from; ConfigError when it is a download."""
        found = self.checkpoint(path)
        if found.kind == "external_weights":
            raise ConfigError(
                f"{path} is a download; train or sample from one of save_state or save_weights_for_sampler"
            )
        return found

    def checkpoints(self, model: str | None = None) -> list[Checkpoint]:
        where, values = ("", ()) if model is None else ("AND model = ?", (model,))
        rows = self._run(
            f"SELECT * FROM checkpoints WHERE coalesce(expires, 1e18) > ? {where} ORDER BY created",
            time.time(),
            *values,
        )
        return [self._checkpoint(row) for row in rows]

    def set_expiry(self, path: str, expires: float | None) -> None:
        self.checkpoint(path)
        self._run("UPDATE checkpoints SET expires = ? WHERE path = ?", expires, path)

    def remove_checkpoint(self, path: str) -> None:
        self.remove_state(self.checkpoint(path).handle)
        self._run("DELETE FROM checkpoints WHERE path = ?", path)

    def remove_expired(self) -> int:
        """How many checkpoints were at their end, and are gone."""
        rows = self._run("SELECT path, handle FROM checkpoints WHERE expires <= ?", time.time())
        for path, handle in rows:
            self.remove_state(str(self._whole(handle)))
            self._run("DELETE FROM checkpoints WHERE path = ?", path)
        return len(rows)

    def has_state(self, handle: str) -> bool:
        return Path(handle).exists()

    def remove_state(self, handle: str) -> None:
        path = Path(handle)
        if self.directory not in path.parents:
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def collect(self) -> int:
        """How many files were let go that nothing refers to: left by a process that ended between two writes.

        For the start, when nothing is at work.
        """
        with self._transaction() as db:
            finished = "SELECT models.id FROM models JOIN sessions ON sessions.id = session WHERE finished IS NOT NULL"
            db.execute(f"DELETE FROM requests WHERE model IN ({finished})")
            db.execute(f"UPDATE models SET snapshot = NULL WHERE id IN ({finished})")
            rows = db.execute(
                "SELECT snapshot FROM models UNION SELECT handle FROM checkpoints UNION "
                "SELECT handle FROM samplers JOIN sessions ON sessions.id = session WHERE finished IS NULL"
            ).fetchall()
        kept = {self._whole(row[0]) for row in rows}
        lost = [path for path in self.directory.glob("states/*/*") if str(path) not in kept]
        for path in lost:
            self.remove_state(str(path))
        return len(lost)

    def states_of(self, model: str) -> Path:
        """The directory of a model's states. Ids of models are made of letters, digits, - and :."""
        return self.directory / "states" / model.replace(":", "_")

    # Handles of states are kept as paths below the directory, so that it may be moved.

    def _below(self, handle: str | None) -> str | None:
        path = Path(handle or "")
        return str(path.relative_to(self.directory)) if handle and self.directory in path.parents else handle

    def _whole(self, text: str | None) -> str | None:
        return str(self.directory / text) if text else text

    def _model(self, row: tuple[Any, ...]) -> Model:
        return Model(
            **dict(zip(("id", "session", "base_model"), row, strict=False)),
            lora=Lora(**json.loads(row[3])),
            seed=row[4],
            created=row[5],
            last_request=row[6],
            metadata=json.loads(row[7]),
            origin=self._whole(row[8]),
            with_optimizer=bool(row[9]),
            snapshot=self._whole(row[10]),
            snapshot_seq=row[11],
            last_seq=row[12],
        )

    def _checkpoint(self, row: tuple[Any, ...]) -> Checkpoint:
        names = ("path", "model", "seq", "kind", "name", "handle", "created", "expires", "size")
        values = dict(zip(names, row, strict=False))
        return Checkpoint(**{**values, "handle": self._whole(row[5])}, metadata=json.loads(row[9]))


def _lora_text(lora: Lora) -> str:
    names = ("rank", "alpha", "attention", "mlp", "unembed")
    return json.dumps({name: getattr(lora, name) for name in names})
