"""The Rust extension: batch kernels and the embedded engine."""

__version__: str
DEBUG_BUILD: bool
