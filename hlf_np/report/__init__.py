"""What a person sees: figures, the table, the page."""
