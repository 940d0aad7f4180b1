"""Attacks on classifiers: projected gradient ascent (`pgd`) in any perturbation space, and others.

`pgd` is a function here, which shadows the module of the same name.
"""

from hlf_np.attacks.attack import Attack, AttackResult, SuccessRate, checked_result
from hlf_np.attacks.auto_pgd import AutoPGD, ThoroughAttack
from hlf_np.attacks.black_box import RandomSearch, Transfer
from hlf_np.attacks.carlini_wagner import CarliniWagner
from hlf_np.attacks.corruptions import UNSEEN_ATTACKS, Blur, Corruption, ElasticDeformation, Fog, Rotation
from hlf_np.attacks.objectives import Objective
from hlf_np.attacks.pgd import FGSM, PGD, Rule, Start, pgd
from hlf_np.engine import Engine

# The attacks that `python -m hlf_np attack` offers.
ATTACKS: tuple[Attack, ...] = (PGD(), FGSM(), CarliniWagner(), RandomSearch(), AutoPGD(), ThoroughAttack())

__all__ = [
    "ATTACKS",
    "FGSM",
    "PGD",
    "UNSEEN_ATTACKS",
    "Attack",
    "AttackResult",
    "AutoPGD",
    "Blur",
    "CarliniWagner",
    "Corruption",
    "ElasticDeformation",
    "Engine",
    "Fog",
    "Objective",
    "RandomSearch",
    "Rotation",
    "Rule",
    "Start",
    "SuccessRate",
    "ThoroughAttack",
    "Transfer",
    "checked_result",
    "pgd",
]
