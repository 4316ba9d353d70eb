"""The source of all random numbers of a run: its seed, their purpose, and a counter.

No generator outlives a step. The seed and the step determine all numbers that follow, so that a run continues after an
interruption exactly as it would have without one, with any number of workers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    ORDER = 0  # of the images of an epoch
    AUGMENTATION = 1  # of one image
    STEP = 2  # of the model itself, such as dropout
    MODEL = 3  # initial weights


def generator(seed: int, purpose: Purpose, *counts: int) -> np.random.Generator:
    return np.random.default_rng((seed, purpose, *counts))


def seed_torch(seed: int, purpose: Purpose, *counts: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence((seed, purpose, *counts)).generate_state(1)[0]))
