"""The built-in tasks and the comparison that `esper demo` shows."""
