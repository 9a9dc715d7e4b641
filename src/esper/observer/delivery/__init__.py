"""Delivery of alerts: each AlertFiring and AlertResolved goes to every handler of `delivery.toml`, at least once.

One AlertNotified or AlertSuppressed is recorded for each alert and handler. They are the only state, and all that a successor reads.
It must never make an observer wait for a receiver, and never show a secret.
"""
