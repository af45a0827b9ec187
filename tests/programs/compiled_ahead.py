"""Launches the kernels of the tuner's work on memory and on tensors without any.

Prints, as JSON, how many requests to Triton were the same, and the work whose were not.
"""

import json

import torch
from triton import knobs
from triton.runtime import driver

from deblurgan.kernels.candidates import candidates
from deblurgan.kernels.config import Gpu
from deblurgan.spec import PRESETS
from deblurgan.tuning.compiling import AbsentGpu
from deblurgan.tuning.problems import Size, Work, layers, make_problem

asked = []


def note(*, fn, compile, **_):
    asked.append((fn.name, compile["key"]))
    return True  # that is enough: do not compile


def requests(work, device):
    asked.clear()
    problem = make_problem(work, torch.device(device))
    for config in candidates(work.shape, Gpu("absent", (9, 0), 132)):
        problem.run(config)
    return sorted(set(asked))


driver.set_active(AbsentGpu(90))
knobs.runtime.jit_cache_hook = note
same, different = 0, []
for preset in ("paper", "tiny"):
    for stage in layers(PRESETS[preset]):
        for gradient, dtype in (
            ("", torch.float16),
            ("", torch.int8),
            ("dgrad", torch.bfloat16),
            ("wgrad", torch.bfloat16),
        ):
            if (stage.kind, gradient) == ("stem", "dgrad") or (stage.kind != "trunk" and dtype == torch.int8):
                continue
            work = Work(preset, stage.name, gradient, Size(2, 16, 24), dtype)
            ahead, now = requests(work, "meta"), requests(work, "cpu")
            if ahead == now:
                same += len(now)
            else:
                different.append(str(work))
print(json.dumps([same, different]))
