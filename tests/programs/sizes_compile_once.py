"""Launches every kernel for pictures of many sizes; prints which arguments made Triton compile one anew, as JSON."""

import json

import torch
from triton import knobs
from triton.runtime import driver

from deblurgan.generator.engine import Engine
from deblurgan.generator.tape import Tape
from deblurgan.kernels.config import ConvConfig
from deblurgan.kernels.table import Table
from deblurgan.nn import Generator
from deblurgan.ops.critic_gradients import KernelNormAct
from deblurgan.tuning.compiling import AbsentGpu

SIZES = (1, 8, 8), (1, 64, 64), (2, 48, 60), (2, 56, 56), (1, 76, 84), (1, 252, 260), (1, 512, 516)
seen = {}  # what a kernel of such constants takes its integers for


def note(*, fn, compile, **_):
    names = fn.jit_function.arg_names
    constants, attributes = compile["constants"], compile["configs"][0]
    fixed, known = ({names[at]: v for (at, *_), v in values.items()} for values in (constants, attributes))
    constants = str(sorted((name, value) for name, value in fixed.items() if name.isupper()))
    for name, type in compile["signature"].items():
        if type in ("i32", "i64") or (isinstance(fixed.get(name), int) and not name.isupper()):
            taken = type, fixed.get(name), str(known.get(name))
            seen.setdefault((fn.name, constants, name), set()).add(taken)
    return True  # that is enough: do not compile


def pick_config(shape):
    return ConvConfig(64, 64, 32, form="tma" if shape.kind.startswith("trunk") else "pointer")


driver.set_active(AbsentGpu(90))
knobs.runtime.jit_cache_hook = note
with torch.device("meta"):
    net = Generator("paper", width=16, blocks=2)
    weights = {name: weight.detach() for name, weight in net.named_parameters()}
    ways = (pick_config, Table(None))
    engines = [Engine(net.spec, weights, dtype=torch.float16, pick_config=way) for way in ways]
    tape = Tape(net.spec, torch.float16, pick_config)
    counter = torch.empty(2, dtype=torch.int64)
    for n, h, w in SIZES:
        image = torch.empty(n, 3, h, w)
        for engine in engines:
            engine(image)
        tape.backward(image, tape.forward(image, weights, counter)[1], weights, set(tape.names))
        for rows, columns in ((h, w), (h - 1, w - 1)):
            z = torch.empty(n, 64, rows, columns, dtype=torch.float16, memory_format=torch.channels_last)
            y, norm_act = KernelNormAct.make(z)
            norm_act.adjoint(y, *norm_act.signal(y), *norm_act.tangent(y))
several = {(kernel, name) for (kernel, _, name), taken in seen.items() if len(taken) > 1}
print(json.dumps([sorted({kernel for kernel, *_ in seen}), sorted(several)]))
