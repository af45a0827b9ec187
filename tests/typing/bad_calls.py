"""Mistakes that a type checker finds, each in a line that ends with `# error`."""

import torch

import deblurgan

deblurgan.Deblurrer.from_pretrained(step=5)  # error
deblurgan.Deblurrer.from_pretrained(quantize="int4")  # error
deblurgan.Deblurrer.from_pretrained()(3)  # error
deblurgan.Deblurer  # error
deblurgan.Deblurrer.from_pretrained(scale=(1, 2))  # error
deblurgan.Deblurrer.from_pretrained().plan("4000x3000")  # error
deblurgan.Deblurrer.from_pretrained().files(["photos"], skip=True)  # error
deblurgan.Generator.from_pretrained("OWNER/NAME", tokn="x")  # error
deblurgan.export.export_generator("net.pth", "net.onnx")  # error
restored: str = deblurgan.Generator("tiny")(torch.zeros(1, 3, 8, 8))  # error
scores: str = deblurgan.Critic()(torch.zeros(1, 3, 8, 8))  # error
deblurgan.Generator("tiny")(torch.zeros(1, 3, 8, 8), sed=1)  # error
deblurgan.Deblurrer.from_pretrained(dtype="fp8")  # error
deblurgan.Deblurrer.from_pretrained(max_memory="1GB")  # error
deblurgan.Deblurrer.from_pretrained(scale="half")  # error
