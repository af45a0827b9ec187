"""Triton kernels of the generator and critic live here; they need triton, so a CUDA tensor's arrival imports them.

Installed as deblurgan.kernels: import it by that name.
"""
