"""The run directory: what a run has done, kept so that it can be killed at any moment and go on."""

from tinsmith.workflows.journal.checkpoints import Keep, ResumePoint
from tinsmith.workflows.journal.rundir import IfExists, RunDirectory

__all__ = ["IfExists", "Keep", "ResumePoint", "RunDirectory"]
