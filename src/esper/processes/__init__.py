"""Where the parts meet: one module per operating-system process, and what a reader of the log is given."""
