"""The service over a log: metrics for Prometheus, the JSON API, live tails.

It shows what the log, its folds and its observers hold, and asks the log through `esper.history`. It must never write into a run, decide
anything, or open a file of the log itself; custom metrics are written by the function that it is given.
"""
