"""The commands of the shell, one module each: `add` says what can be typed, `run` does it and returns the exit code."""
