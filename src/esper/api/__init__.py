"""The Python interface: `esper.fit` and `esper.measure`."""
