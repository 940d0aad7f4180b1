"""One module for each file format in which datasets are published; no file is trusted."""
