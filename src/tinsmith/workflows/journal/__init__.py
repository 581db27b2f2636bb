"""The run directory: what a run has done, kept so that it can be killed at any moment and go on."""

from tinsmith.workflows.journal.rundir import IfExists, Keep, ResumePoint, RunDirectory

__all__ = ["IfExists", "Keep", "ResumePoint", "RunDirectory"]
