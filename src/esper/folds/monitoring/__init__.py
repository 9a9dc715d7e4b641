"""Everything that is derived from a run while it trains: measurements, windows, trends, anomalies, alerts, silence.

`cell` is one topic of one run, the same for every host; `run` is one run of a local log. Must never read a clock or a file.
"""
