"""Contact sheets of PSFs."""

from __future__ import annotations

import numpy as np
import pytest

from deblurgan.blur.contact_sheet import psf_sheet


def test_psf_sheet_lays_kernels_out_row_by_row() -> None:
    psf = np.zeros((5, 3, 3))
    for i in range(4):  # the fifth stays empty
        psf[i].flat[i] = 4.0 * (i + 1)
        psf[i].flat[i + 1] = i + 1
    sheet = psf_sheet(psf)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * 129 + 1, 3 * 129 + 2)  # 43 px a cell
    wanted = np.zeros((5, 3, 3), np.uint8)
    for i in range(4):
        wanted[i].flat[i], wanted[i].flat[i + 1] = 255, 128  # a quarter of the maximum is half as bright
    for i in range(5):
        top, left = 130 * (i // 3), 130 * (i % 3)
        assert np.array_equal(sheet[top : top + 129, left : left + 129], np.kron(wanted[i], np.ones((43, 43))))
    assert (sheet[129] == 96).all() and (sheet[:, 129] == 96).all() and (sheet[130:, 260:] == 96).all()


@pytest.mark.parametrize("n, columns, size", [(1, None, (130, 130)), (4, None, (261, 261)), (6, 6, (130, 785))])
def test_psf_sheet_of_the_usual_kernels(n: int, columns: int | None, size: tuple[int, int]) -> None:
    assert psf_sheet(np.ones((n, 65, 65), np.float32), columns=columns).shape == size


@pytest.mark.parametrize("shape", [(3, 3), (0, 3, 3), (2, 0, 0), (2, 3, 4)])
def test_psf_sheet_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"psf must be \[n, k, k\], n and k at least 1, got"):
        psf_sheet(np.zeros(shape))
