"""The training loop, its checkpoints, rollback and determinism. It knows neither a log nor a policy: both are handed in."""
