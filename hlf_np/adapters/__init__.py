"""Adapters of our models to other libraries. Each file needs the library that it is named after."""
