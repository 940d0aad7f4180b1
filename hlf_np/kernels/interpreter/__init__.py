"""The interpreter of compiled networks.

`executor` runs lists of instructions and evaluates networks, `attack` runs whole attacks, `training` whole training
steps.
"""
