"""The log: durable, local, one writer per run. A record is on disk before it counts."""
