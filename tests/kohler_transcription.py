"""The authors' MATLAB code of Köhler's benchmark, function after function, in NumPy and SciPy: eval_image,
dftregistration, imshift with shiftmatrix, and of MeTriX MuX preprocess, psnr and mssim_index with ssim_index_modified.

Written after that code alone and without thought for speed; pictures are [h, w, 3], indices count from 1 as there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import correlate
from scipy.signal import correlate2d


def eval_image(deblurred: np.ndarray, frames: dict[int, np.ndarray], numbers: Sequence[int]) -> dict[str, list]:
    """Scores against the frames of those numbers, with the gains and shifts that were found."""
    z = deblurred.astype(float)
    c = np.ones(deblurred.shape)
    scores: dict[str, list] = {"PSNR": [], "MSSIM": [], "gain": [], "shift": []}
    for j in numbers:
        x = frames[j].astype(float)
        xf = np.fft.fft2(np.mean(x, 2))
        gain = np.sum(x.ravel() * z.ravel()) / np.sum(z.ravel() * z.ravel())
        zs = gain * z
        shift = dftregistration(xf, np.fft.fft2(np.mean(zs, 2)))
        cr, zr = imshift(c, shift), imshift(zs, shift)
        xr = x * cr
        scores["PSNR"].append(metrix_psnr(preprocess(xr), preprocess(zr)))
        scores["MSSIM"].append(mssim_index(preprocess(xr), preprocess(zr)))
        scores["gain"].append(gain)
        scores["shift"].append(shift)
    return scores


def dftregistration(buf1ft: np.ndarray, buf2ft: np.ndarray) -> tuple[int, int]:
    """With usfac 1: row and column shift."""
    m, n = buf1ft.shape
    cc = np.fft.ifft2(buf1ft * np.conj(buf2ft)).real
    loc1 = np.argmax(cc, 0)
    cloc = int(np.argmax(np.max(cc, 0))) + 1
    rloc = int(loc1[cloc - 1]) + 1
    row_shift = rloc - m - 1 if rloc > m // 2 else rloc - 1
    col_shift = cloc - n - 1 if cloc > n // 2 else cloc - 1
    return row_shift, col_shift


def shiftmatrix(n: int, d: int) -> np.ndarray:
    sd, m = int(np.sign(d)), n - abs(d)
    cd, one = abs(d), np.eye(n - abs(d))
    if sd == 0:
        return np.hstack([one, one]) @ np.vstack([np.eye(n), 0 * np.eye(n)])
    if sd > 0:
        a = np.hstack([np.zeros((m, cd)), one, np.zeros((m, cd - 1)), one, np.zeros((m, 1))])
        return a @ np.vstack([np.eye(n), 0 * np.eye(n)])
    a = np.hstack([np.zeros((m, 1)), one, np.zeros((m, cd - 1)), one, np.zeros((m, cd))])
    return a @ np.vstack([0 * np.eye(n), np.eye(n)])


def imshift(x: np.ndarray, t: tuple[int, int]) -> np.ndarray:
    """With bbox 'same'."""
    h, w = x.shape[:2]
    xs = np.zeros(x.shape)
    for i in range(x.shape[2]):
        y = shiftmatrix(h, -t[0]) @ x[:, :, i] @ shiftmatrix(w, -t[1]).T
        rows = slice(t[0], None) if t[0] >= 0 else slice(None, h + t[0])
        columns = slice(t[1], None) if t[1] >= 0 else slice(None, w + t[1])
        xs[rows, columns, i] = y
    return xs


def preprocess(image: np.ndarray) -> np.ndarray:
    return 0.29900 * image[:, :, 0] + 0.58700 * image[:, :, 1] + 0.11400 * image[:, :, 2]


def metrix_psnr(reference: np.ndarray, query: np.ndarray) -> float:
    return 10 * np.log10(255 * 255 / np.mean((reference.ravel() - query.ravel()) ** 2))


def mssim_index(img1: np.ndarray, img2: np.ndarray) -> float:
    half = [0.037828455507260, -0.023849465019560, -0.110624404418440, 0.377402855612830]
    lod = np.array([*half, 0.852698679008890, *half[::-1]])
    lpf = np.outer(lod, lod)
    lpf = lpf / np.sum(lpf)
    ssim_v, ssim_r = np.zeros(5), np.zeros(5, complex)
    _, ssim_v[0], ssim_r[0] = ssim_components(img1, img2)
    for s in range(4):
        img1 = correlate(img1, lpf, mode="reflect")[::2, ::2]  # SciPy's name for MATLAB's 'symmetric'
        img2 = correlate(img2, lpf, mode="reflect")[::2, ::2]
        ssim_m, ssim_v[s + 1], ssim_r[s + 1] = ssim_components(img1, img2)
    beta = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    return abs(ssim_m**0.1333 * np.prod(ssim_v**beta) * np.prod(ssim_r**beta))


def ssim_components(img1: np.ndarray, img2: np.ndarray) -> tuple[float, float, float]:
    """The means of luminance, contrast and structure."""
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x * x + y * y) / (2 * 1.5 * 1.5))
    window = window / np.sum(window)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mu1, mu2 = correlate2d(img1, window, "valid"), correlate2d(img2, window, "valid")
    sigma1 = np.sqrt(np.maximum(0, correlate2d(img1 * img1, window, "valid") - mu1 * mu1))
    sigma2 = np.sqrt(np.maximum(0, correlate2d(img2 * img2, window, "valid") - mu2 * mu2))
    sigma12 = correlate2d(img1 * img2, window, "valid") - mu1 * mu2
    m = (2 * mu1 * mu2 + c1) / (mu1**2 + mu2**2 + c1)
    v = (2 * sigma1 * sigma2 + c2) / (sigma1**2 + sigma2**2 + c2)
    r = (sigma12 + c2 / 2) / (sigma1 * sigma2 + c2 / 2)
    return float(np.mean(m)), float(np.mean(v)), float(np.mean(r))
