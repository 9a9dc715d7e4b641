"""The commands of the shell: each module's `add` adds the parsers of one command, or of a few with one subject, and their functions."""
