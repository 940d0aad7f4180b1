"""The experiment: a grid of trained and attacked models, how it is stored, and what it says of the claims.

In the order of reading, and each imports only those before it: `results` (what is known of a model), `measurements`
(what is measured), `configuration` (the settings of a run, plugins), `storage` (its folder, with `results.csv`), `grid`
(training and attacking), `analysis` (statistics and claims).
"""
