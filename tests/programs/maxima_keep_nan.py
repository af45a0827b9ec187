"""Compiles the kernels that compare numbers, and fails where their PTX lets a maximum lose NaN."""

import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from deblurgan.kernels.norm_act import norm_act_kernel
from deblurgan.kernels.output_tail import output_tail_kernel

norm = dict(C=64, RESIDUAL=False, BORDER=0, WIDTH=0, WRITE=True, QUANTIZED=0, ZERO=0)
norm |= dict(THRESHOLD=1, TILES=64, BLOCK_P=64, BLOCK_C=64, PDL=False)
tail = dict(C=16, OUT=3, TAPS=7, LINES=1, EIGHT_BIT=False, SAVE=False, FLAG=True)
tail |= dict(BLOCK_M=64, BLOCK_N=32, BLOCK_K=16, PRECISION="ieee", PDL=False)
halves = ("x", "y", "weight", "image", "residual", "out", "saved")
acts = [(norm_act_kernel, {**norm, "SLOPE": slope}) for slope in (0.0, 0.2)]
for kernel, constants in (*acts, (output_tail_kernel, tail)):
    types = {**dict.fromkeys(halves, "*fp16"), **dict.fromkeys(("stats", "counts", "bias"), "*fp32"), "counter": "*i64"}
    types["not_finite"] = "*i32"
    signature = {a: "constexpr" if a in constants else types.get(a, "i32") for a in kernel.arg_names}
    ptx = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 80, 32)).asm["ptx"]
    found = set(re.findall(r"(?:max|min)[.\w]*[.]f(?:16|32)\w*", ptx))
    assert found and all(".NaN" in name for name in found), f"{kernel.__name__}: {found}"
