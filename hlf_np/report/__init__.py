"""Figures, tables and the HTML page that present the results of a run."""
