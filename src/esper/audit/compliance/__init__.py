"""Compliance checks: rules that are asked of a projection, answered by PASS, FAIL with the violations, or INCONCLUSIVE.

A check is evidence for a rule that people wrote, never a statement that it was kept.
"""
