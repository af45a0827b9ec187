built_with_cuda: bool

# Arrays are addresses, 0 for none. A launch target is (-1, threads) for the CPU, (device, CUDA stream) for a GPU.
_LaunchTarget = tuple[int, int]
_Strides = tuple[int, int, int, int]

def uniforms(seed: int, first: int, counter: int, out: int, n: int, target: _LaunchTarget) -> None: ...
def random_windows(
    seed: int,
    first: int,
    counter: int,
    out: int,
    n: int,
    h: int,
    w: int,
    out_h: int,
    out_w: int,
    flip: bool,
    target: _LaunchTarget,
) -> None: ...
def dropout_mask(
    counter: int, out: int, n: int, elements: int, threshold: int, rng_stream: int, target: _LaunchTarget
) -> None: ...
def random_trajectories(
    seed: int,
    first: int,
    counter: int,
    anxiety: int,
    out: int,
    n: int,
    steps: int,
    length: float,
    target: _LaunchTarget,
) -> None: ...
def rasterize_psf(
    trajectories: int,
    exposure: int,
    out: int,
    canvas: int,
    n: int,
    steps: int,
    size: int,
    centered: bool,
    target: _LaunchTarget,
) -> None: ...
def all_within(values: int, n: int, low: float, high: float) -> bool: ...
def max_taps(psf: int, n: int, size: int) -> int: ...
def psf_taps(
    psf: int, offset: int, weight: int, count: int, n: int, size: int, capacity: int, target: _LaunchTarget
) -> None: ...
def apply_psf(
    image: int,
    out: int,
    image_stride: _Strides,
    out_stride: _Strides,
    image_type: int,
    out_type: int,
    n: int,
    c: int,
    h: int,
    w: int,
    out_h: int,
    out_w: int,
    offset: int,
    weight: int,
    count: int,
    capacity: int,
    padding: int,
    windows: int,
    white: float,
    gamma: float,
    highlights: int,
    sensor: int,
    light: int,
    noise: int,
    seed: int,
    first: int,
    counter: int,
    is_signed: bool,
    target: _LaunchTarget,
) -> None: ...

# y and the residual are fp32 or bf16, as DType in csrc/picture.h numbers them; strides count elements.
def strip_moments(y: int, type: int, moments: int, pixels: int, c: int, threads: int) -> None: ...
def strip_activate(
    y: int,
    residual: int,
    out: int,
    type: int,
    stats: int,
    y_row: int,
    residual_row: int,
    out_row: int,
    rows: int,
    w: int,
    c: int,
    border: int,
    reflect: bool,
    relu: bool,
    threads: int,
) -> None: ...

# Pictures [n, h, w, c], contiguous, fp32 or bf16; sizes are n, pixels, c. Statistics and sums are fp32 [n, 2, c].
_Sizes = tuple[int, int, int]

def norm_act(
    y: int, residual: int, out: int, stats: int, type: int, sizes: _Sizes, slope: float, threads: int
) -> None: ...
def norm_act_grad(
    v: int,
    y: int,
    stats: int,
    out: int,
    sums: int,
    type: int,
    sizes: _Sizes,
    slope_in: float,
    slope_out: float,
    threads: int,
) -> None: ...
def norm_act_second(
    v: int,
    y: int,
    signal: int,
    tangent: int,
    stats: int,
    signal_sums: int,
    tangent_sums: int,
    out: int,
    type: int,
    sizes: _Sizes,
    slope: float,
    threads: int,
) -> None: ...
def reflect_pad(
    x: int, out: int, type: int, n: int, h: int, w: int, c: int, border: int, gradient: bool, threads: int
) -> None: ...

# Of the CPU's blur: those that this CPU has, the fastest first; the one in use; another from now on, in all threads.
# The first call takes the one that the environment's DEBLURGAN_CPU_ISA names. ValueError for one that is not there.
def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def use_instruction_set(name: str) -> None: ...
def cuda_device_count() -> int: ...
