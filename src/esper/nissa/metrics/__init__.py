"""Metrics: what a family is, the numbers that are counted from records, and how they are written for Prometheus."""
