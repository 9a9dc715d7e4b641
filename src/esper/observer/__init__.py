"""The observer: hosts the cells of a directory's runs, saves the derived records beside each run, and delivers alerts.

Must never write into a run.
"""
