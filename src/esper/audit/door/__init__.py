"""The SQL door: one query from outside, run on one DuckDB file by a child process that can do nothing else."""
