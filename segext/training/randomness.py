"""Where all random numbers of a run come from: its seed, what they are for, and how often that was asked before.

No generator outlives a step. Whoever knows the seed and the step knows every number that follows, so that a run goes
on after an interruption exactly as it would have without, on any number of workers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    ORDER = 0  # of the images of an epoch
    AUGMENTATION = 1  # of one image
    STEP = 2  # what the model itself draws, such as dropout
    MODEL = 3  # initial weights


def generator(seed: int, purpose: Purpose, *counts: int) -> np.random.Generator:
    return np.random.default_rng((seed, purpose, *counts))


def seed_torch(seed: int, purpose: Purpose, *counts: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence((seed, purpose, *counts)).generate_state(1)[0]))
