"""Attacks on classifiers, one file each: projected gradient ascent (`pgd`) in any perturbation space, and others.

`pgd` and `carlini_wagner` are functions here, which shadow the modules of the same names.
"""

from hlf_np.attacks.attack import Attack, AttackResult, SuccessRate, checked_result
from hlf_np.attacks.auto_pgd import AutoPGD, ThoroughAttack
from hlf_np.attacks.black_box import RandomSearch, Transfer, random_search, transfer
from hlf_np.attacks.carlini_wagner import CarliniWagner, carlini_wagner
from hlf_np.attacks.corruptions import UNSEEN_ATTACKS, Blur, Corruption, ElasticDeformation, Fog, Rotation
from hlf_np.attacks.objectives import Objective
from hlf_np.attacks.pgd import FGSM, PGD, Rule, Start, fgsm, pgd
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
    "carlini_wagner",
    "checked_result",
    "fgsm",
    "pgd",
    "random_search",
    "transfer",
]
