"""Contract of the log: records, every kind of event with its fields, topics, the codec, digests, and records on Kafka.

Pure: it must never read a clock, draw a random id, touch a file, or know who uses it.
"""
