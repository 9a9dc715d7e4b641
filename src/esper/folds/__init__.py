"""Folds over records: admission, merging, the lifecycle table, the gate, the state and the timeline of a run, monitoring.

Pure: it must never read a clock, draw a random number, or touch a file or a socket.
"""
