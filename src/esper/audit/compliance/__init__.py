"""Compliance checks: questions to a projection whose answer is PASS, FAIL with every violation, or INCONCLUSIVE where there is nothing to ask.

A check is evidence for a rule that people wrote, never a statement that it was kept.
"""
