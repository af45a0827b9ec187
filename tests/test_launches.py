"""What a training step launches on a GPU, which at batch 1 decides how long it takes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # where pytest finds the benchmarks' own imports, too

pytest.importorskip("triton", reason="triton is not installed")

from launches import launches


@pytest.mark.skipif(torch.cuda.is_available(), reason="counted with Triton's interpreter, not on a GPU")
def test_a_step_has_no_more_launches_than_it_had() -> None:
    found = launches()
    assert found.total() <= 1032, found.most_common(20)
    assert found["_fused_adam_.tensor_lr"] == 6 and found["norm_act_double_backward_kernel"] == 15, (
        "the step is another"
    )
    without = launches(content="none")
    assert without.total() < found.total() - 40, "VGG has 14 convolutions"
