"""SQL over a log: a projection of its records into DuckDB, and what is asked of it. Reads the log, never writes into it."""
