"""Collectors: functions with a name, an interval and the metrics they own; those that Esper brings, and what runs them."""
