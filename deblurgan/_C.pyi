built_with_cuda: bool

def choices(seed: int, first: int, n: int, out: int) -> None: ...
def random_trajectories_cpu(
    anxiety: int, out: int, n: int, steps: int, length: float, seed: int, first: int, threads: int
) -> None: ...
def rasterize_psf_cpu(
    trajectories: int, exposure: int, out: int, n: int, steps: int, size: int, centered: bool, threads: int
) -> int: ...
def apply_psf_cpu(
    image: int,
    psf: int,
    out: int,
    n: int,
    c: int,
    h: int,
    w: int,
    size: int,
    is_uint8: bool,
    padding: int,
    threads: int,
) -> None: ...
def cuda_device_count() -> int: ...
