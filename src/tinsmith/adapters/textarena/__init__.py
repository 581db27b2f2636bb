"""Games of the package `textarena` (extra `textarena`)."""
