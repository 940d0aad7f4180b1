"""The experiment: a grid of trained and attacked models, its store, and the claims."""
