"""Compiles the generator's kernels for sm_90, and fails where one touches memory before it waits for the previous."""

import re
from unittest import mock

import torch
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from deblurgan.generator.engine import Engine
from deblurgan.kernels.config import ConvConfig
from deblurgan.nn import Generator
from deblurgan.tuning.compiling import AbsentGpu

found = {}
run = JITFunction.run


def compile_one(function, *args, grid, warmup, **options):
    if function.__name__ not in found:
        found[function.__name__] = run(function, *args, grid=grid, warmup=True, **options)


def pick_config(shape):
    return ConvConfig(64, 64, 32, form="tma" if shape.kind == "trunk" else "pointer")


driver.set_active(AbsentGpu(90))
with torch.device("meta"), mock.patch.object(JITFunction, "run", compile_one):
    net = Generator("paper", width=16, blocks=1)
    weights = {name: weight.detach() for name, weight in net.named_parameters()}
    for way in (pick_config, lambda *layer: None):
        Engine(net.spec, weights, dtype=torch.float16, pick_config=way)(torch.empty(1, 3, 128, 256))
assert len(found) == 8, sorted(found)
for name, kernel in found.items():
    steps = re.findall(r"griddepcontrol[.]\w+|(?:ld|st)[.]global|cp[.]async", kernel.asm["ptx"])
    assert kernel.metadata.launch_pdl, name
    assert steps[:2] == ["griddepcontrol.wait", "griddepcontrol.launch_dependents"], (name, steps)
    assert len([step for step in steps if step.startswith("grid")]) == 2, (name, steps)
