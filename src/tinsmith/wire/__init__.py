"""The Tinker protocol, version of SDK 0.38.0: its requests and results as bytes and as values of this library.

`messages` are the protobuf types, `training` and `sampling` turn requests into batches and settings and results into
bytes, `requests` are the JSON bodies. What arrives is checked here: a `ConfigError` or `ShapeError` says which field of
which datum is wrong. Needs the package `protobuf` (extra `serve`), imported when it is first used.
"""
