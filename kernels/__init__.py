"""The networks' Triton kernels: functions that launch, on tensors that the caller has allocated; no autograd.

    config          how a convolution is cut into tiles, and the bundles of tensors that kernels take; no Triton
    table           which convolutions run in our kernels, and how: by rows that were measured, else by heuristics
    rows            such rows, as files
    limits          which tilings a GPU can launch
    candidates      what `deblurgan tune` measures for such rows
    launch          how kernels follow one another

    pack_image      the picture as the first convolution reads it
    conv_stats      convolution and the statistics of its tiles
    tile_stats      the same statistics of the output of a library's convolution
    merge_stats     mean and 1 / std from the statistics of tiles
    norm_act        normalise, activate, dropout, residual, border
    dropout         the masks, within other kernels
    output_tail     last convolution, tanh, + picture, clamp

    conv_wgrad                the gradient of a convolution's weight; that of its input is a convolution too
    norm_act_grad             back through norm_act
    norm_act_double_backward  the derivative of that gradient by norm_act's input, for the gradient penalty
    output_tail_grad          back through clamp and tanh

Sizes and numbers of pixels or tiles are not specialised (do_not_specialize), or each new size of a picture would
compile kernels anew. Strides in elements are, and the width of the caller's own picture, since wide loads depend on
their divisibility.

The kernels need Triton, so nothing here is imported before a GPU needs it. Installed as deblurgan.kernels: import it by
that name.
"""
