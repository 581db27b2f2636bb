"""Files encrypted with age (age-encryption.org/v1), for those who ask for weights that only they can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tinsmith.domain.errors import CapabilityError, ConfigError

SUFFIX = ".age"


def to(recipients: Sequence[str]) -> Callable[[Path], Path]:
    """What puts `FILE.age` in the place of a file, readable by the recipients (X25519 public keys, `age1...`).

    ConfigError for a key that is none, CapabilityError without pyrage; both before any file is written.
    """
    try:
        import pyrage
    except ModuleNotFoundError as error:
        message = "age_encryption_recipients: the server has no pyrage; there, pip install pyrage"
        raise CapabilityError(message) from error
    try:
        keys = [pyrage.x25519.Recipient.from_str(text) for text in recipients]
    except pyrage.RecipientError as error:
        raise ConfigError(f"age_encryption_recipients: {error}; each is a public key, age1...") from error

    def seal(file: Path) -> Path:
        sealed = file.with_name(file.name + SUFFIX)
        pyrage.encrypt_file(str(file), str(sealed), keys)
        file.unlink()
        return sealed

    return seal
