"""The observer: derives aggregates, anomalies and alerts from the runs of a directory, and delivers alerts."""
