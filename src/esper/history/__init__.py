"""Answers to a reader of a log: a run at any moment, the list of runs, alerts, export, replay, a check of the files. Writes nothing."""
