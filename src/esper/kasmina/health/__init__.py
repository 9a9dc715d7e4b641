"""Health of sites and seeds in measured steps: the formulas, the activation functions behind sites, the meter.

It never changes a step's result.
"""
