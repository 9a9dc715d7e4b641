"""How a run is drawn for people: text, lanes of stages, the live panel, the full report. Nothing here reads a log or a clock."""
