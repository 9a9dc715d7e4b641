"""Copies of runs: the bridge ships those of a directory to Kafka, a mirror fills one from it; claims say which copy is shipped."""
