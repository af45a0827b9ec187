"""Calls of `deblurgan.train` as users write them. A line that a type checker must refuse says so: `# error`."""

from __future__ import annotations

from pathlib import Path

import deblurgan

result = deblurgan.train("photos", out=Path("runs/mine"), preset="tiny", steps=5, betas=(0.9, 0.999), val=None)
path: Path = result.out
generator: deblurgan.Generator = result.generator
deblurgan.train(Path("photos"), out="runs/mine", lr=1, blur_exposure=(0.5, 1.0), gan="none", log=print)
deblurgan.train(deblurgan.TrainConfig(Path("photos"), preset="tiny", regime="synthetic"))

deblurgan.train("photos", step=5)  # error
deblurgan.train("photos", steps="many")  # error
deblurgan.train("photos", gan="gan")  # error
deblurgan.train("photos", regime="wild")  # error
deblurgan.TrainConfig(Path("photos"), regime="wild")  # error
deblurgan.train("photos", betas=(0.9,))  # error
deblurgan.train(5)  # error
