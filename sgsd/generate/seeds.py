"""Random numbers of draws: a seed for each prompt, and the caller's random state kept."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def prompt_seeds(seed: int, count: int) -> list[int]:
    """One seed for each prompt of a call, in [0, 2^56): engines that draw each prompt from a generator of its own
    would give equal prompts equal completions, and count on from a seed for further completions of one prompt."""
    digests = (hashlib.blake2b(f"{seed} {index}".encode(), digest_size=7).digest() for index in range(count))
    return [int.from_bytes(digest, "big") for digest in digests]


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """torch's random state from `seed` on the CPU and on `device`; the caller's is back afterwards."""
    index: int | None = device.index  # None is the current device
    cuda = [torch.cuda.current_device() if index is None else index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for i in cuda:
            torch.cuda.default_generators[i].manual_seed(seed)
        yield


@contextmanager
def random_state_kept() -> Iterator[None]:
    """For code that seeds every source of randomness it knows: the caller's states are back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
