"""A server of the Tinker protocol over any engine: starlette and uvicorn outside, trainers and samplers inside.

`app` turns HTTP into calls of `hub.Hub`, the state of one server. `training.TrainingRun` keeps one model's requests in
the order of their sequence numbers, `sampling` the samplers, `futures` what clients wait for, `store` what outlives the
process: every request that moves a model is written down before it is acknowledged, so that a server that was killed
is, when it comes back, the server that its clients knew.
"""
