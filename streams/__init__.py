"""Faust hosts a worker: the process, its group membership, timers and a status page. The records reach the folds through ledgers.

Nothing of Faust carries a record, a state or a position: see docs/distributed.md for what it would do to them.
"""
