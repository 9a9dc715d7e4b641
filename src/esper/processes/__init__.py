"""Processes put together from the parts: one module per operating-system process. Nothing below may import this."""
