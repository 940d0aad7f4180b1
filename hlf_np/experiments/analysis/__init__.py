"""Evaluation of the results: statistics, and a verdict on each of the paper's claims."""
