"""Make `saved_by_torch_2.13.archive`: run with torch installed. Kept so that one sees what the file holds."""

import argparse
import random
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

big = torch.arange(24, dtype=torch.float32).reshape(4, 6)
model = OrderedDict(
    half=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float16),
    brain=torch.ones(2, 2, dtype=torch.bfloat16),
    columns=big[:, 3:],
    rows=big[2:],
    parameter=torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16)),
    five=torch.zeros(1, 2, 1, 2, 1),
    nothing=None,
)
args = argparse.Namespace(
    lr=1e-5,
    params_dtype=torch.bfloat16,
    device=torch.device("cpu"),
    shape=torch.Size([1, 2]),
    path=Path("data"),
    betas=(0.9, 0.999),
    negative=-(2**40),
    names=["甲", None, True],
    kinds={"a", "b"},
    scalar=np.float32(3),
    count=np.int64(3),
)
rng = {
    "random_rng_state": random.Random(0).getstate()[1][:4],
    "np_rng_state": ("MT19937", np.arange(8, dtype=np.uint32), 8, 0, 0.0),
    "torch_rng_state": torch.arange(8, dtype=torch.uint8),
}
state = {"args": args, "model": model, "checkpoint_version": 3.0, "iteration": 7, "rng_state": [rng]}
torch.save(state, Path(__file__).with_name("saved_by_torch_2.13.archive"))
