"""Environments of the package `verifiers` (extra `verifiers`)."""
