"""Mistakes that a type checker finds, each in a line that ends with `# error`."""

import deblurgan

deblurgan.Deblurrer.from_pretrained(step=5)  # error
deblurgan.Deblurrer.from_pretrained(quantize="int4")  # error
deblurgan.Deblurrer.from_pretrained()(3)  # error
deblurgan.Deblurer  # error
