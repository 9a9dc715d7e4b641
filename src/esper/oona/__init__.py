"""The log: durable, local, one writer per run. What is said here is on disk before it counts."""
