"""Any server of the Tinker protocol as a backend, through the `tinker` SDK (extra `tinker`)."""
