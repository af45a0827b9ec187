"""The networks' Triton kernels: functions that launch, on tensors that the caller has allocated; no autograd.

    pack_image    the picture as the first convolution reads it
    conv_stats    convolution and the statistics of its tiles
    tile_stats    those statistics of another convolution's result
    merge_stats   mean and 1 / std from them
    norm_act      normalise, ReLU, dropout, residual, border
    dropout       the masks, within other kernels
    output_tail   last convolution, tanh, + picture, clamp

    conv_wgrad        the gradient of a convolution's weight; that of its picture is a convolution too
    norm_act_grad     back through norm_act
    norm_act_bend     how that changes with what norm_act read, for the gradient penalty
    output_tail_grad  back through clamp and tanh

Sizes and numbers of pixels or tiles are not specialised (do_not_specialize), else each new size of a picture would
compile kernels anew. Strides in elements are, and the width of the caller's own picture: wide loads go by them.

They need triton, so nothing here is imported before a GPU wants it. `table.json` says which convolutions run in
conv_stats, and how, by GPU and shape; `python -m benchmarks.tune` makes its rows. Installed as deblurgan.kernels:
import it by that name.
"""
