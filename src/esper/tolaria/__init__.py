"""The training loop, its checkpoints, rollback and determinism.

Knows neither a log nor a policy: both are passed in. Never writes anything but checkpoints.
"""
