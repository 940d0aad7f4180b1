"""The figures of a report, drawn from stored results."""
