"""Programs that measure Esper. Each is run by its path; tests import the corpus."""
