"""The contract of the log: what a record is, every kind of event with its fields, the topics, the only door for bytes, and digests.

Pure: nothing in here reads a clock, makes an id out of chance, or touches a file (`tools.schemas`, run as a program, writes the
schemas and this catalogue's page).
"""
