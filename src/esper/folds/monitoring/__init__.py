"""What is derived from a run's topics while it trains: readings, detectors, windows, trends, rules, alerts. Pure, like all folds."""
