"""One model in training at the server, and what its first failure does to the work behind it."""

from __future__ import annotations

import concurrent.futures
from typing import Any

from tinsmith.domain.errors import CancelledWorkError, TinsmithError, TrainingError


class TrainedModel:
    """A model at the server, of which a trainer has one after the other. Results of an earlier one, which may come
    late, say nothing of the next."""

    def __init__(self, client: Any = None, steps: int = 0) -> None:
        self.client = client
        """The SDK's; None until the server has made the model."""
        self.steps = steps
        """Optimizer steps sent."""
        self.failure: BaseException | None = None
        """What the first work that failed raised."""
        self.unusable: TinsmithError | None = None
        """Why it can no longer be used at all."""
        self.last: concurrent.futures.Future[None] = concurrent.futures.Future()
        """Done when the last work that moves gradients or weights is over."""
        self.last.set_result(None)


def not_carried_out(failure: BaseException) -> TinsmithError:
    if isinstance(failure, CancelledWorkError):
        return failure
    error = TrainingError(f"not carried out, since earlier work failed: {failure}")
    error.__cause__ = failure
    return error
