"""What follows from records: admission, order, the lifecycle table, the gate, the state of a run. No clock, chance, file or socket."""
