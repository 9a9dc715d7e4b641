"""Esper trains neural networks that grow while they train, and keeps what happened in a durable log."""
