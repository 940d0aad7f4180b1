"""Storing the results of a run, so that an interrupted run can be resumed."""
