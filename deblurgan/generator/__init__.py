"""The generator in our kernels: the engine runs it, the tape differentiates it, graphs replay it."""
