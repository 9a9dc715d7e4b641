"""Generates from the event kinds: a JSON Schema per kind, one of the envelope, the AsyncAPI document, the catalogue of docs/events.md."""
