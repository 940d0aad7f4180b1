"""What every package uses: array types, argument checks, errors, files, serialization, threads."""
