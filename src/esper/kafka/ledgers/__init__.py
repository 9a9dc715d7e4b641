"""The ledgers of a worker: what is derived from one partition number of every topic, exactly once, and a worker's part of them."""
