"""The Rust extension: batch kernels and the embedded engine."""

__version__: str
DEBUG_BUILD: bool

class Snapshot:
    """Weights that never change: what a trainer takes of itself, what a sampler samples from."""

    @property
    def vocab(self) -> int:
        """Number of token ids."""

    @property
    def context(self) -> int:
        """Longest sequence, in tokens."""
