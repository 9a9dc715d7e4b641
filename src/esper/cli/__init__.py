"""The shell: arguments in, a process called, an exit code out."""
