"""Tamiyo, the controller: SystemState in, decisions out; `policy.decide` is the entry.

Pure: it never reads a clock, a file, or anything but its arguments.
"""
