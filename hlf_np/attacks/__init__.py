"""Attacks: projected gradient ascent in any perturbation space, and what goes beyond it; one file each."""

from hlf_np.attacks.ascent import Attack, AttackResult, Rule, Start, SuccessRate, fgsm, pgd, run
from hlf_np.attacks.black_box import random_search, transfer
from hlf_np.attacks.objectives import Objective
from hlf_np.attacks.smallest import CarliniWagner, carlini_wagner
from hlf_np.engine import Engine

__all__ = [
    "Attack",
    "AttackResult",
    "CarliniWagner",
    "Engine",
    "Objective",
    "Rule",
    "Start",
    "SuccessRate",
    "carlini_wagner",
    "fgsm",
    "pgd",
    "random_search",
    "run",
    "transfer",
]
