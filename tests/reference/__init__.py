"""Plain-Python references of the kernels: each a definition written out, with lists and loops and nothing clever."""
