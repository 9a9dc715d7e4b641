"""Detectors: anomalies in the measurements of one topic."""
