"""A report that answers what an auditor asks of one run: sentences made from its rows, the rows, the checks, and what they cannot show."""
