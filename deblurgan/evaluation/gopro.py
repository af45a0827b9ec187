"""GoPro's test split: which of its two blurred versions is measured, and at what size, is part of every report."""

from __future__ import annotations

from deblurgan.evaluation.scenes import Pairs, Parts

PICTURES, SEQUENCES = 1111, 11  # of the published split
SUBSETS = {"blur": "linear", "blur_gamma": "gamma"}


class GoProPairs(Pairs):
    """Pairs of GoPro's tree. The frames of a sequence are no independent samples, so that a sequence is one."""

    name = "gopro"
    lines_by = samples_by = "sequence"

    def parts(self, index: int) -> Parts:
        return {"sequence": self.dataset.path(index).parents[1].name}

    def conventions(self) -> dict[str, str]:
        blurred = self.dataset.path(0).parent.name
        return super().conventions() | {
            "subset": f"{SUBSETS[blurred]} ({blurred}/), of {PICTURES} pictures in {SEQUENCES} sequences as published"
        }
