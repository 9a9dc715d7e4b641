"""Hosts of many kinds, which `esper.fit` has to train, grow where it can, and give back."""
