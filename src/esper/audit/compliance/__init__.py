"""Compliance checks: questions to a projection, answered by PASS, by FAIL with violations, or by INCONCLUSIVE where nothing can be asked.

A check is evidence for a rule that people wrote, never a statement that it was kept.
"""
