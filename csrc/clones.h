// DEBLURGAN_CLONES before a function builds it for AVX-512, AVX2 and the baseline; the best is picked when the library
// loads. For loops over arrays. Define it as nothing to build once, as sanitizers need. What such a function calls must
// be inlined to be built for its instruction set too; DEBLURGAN_INLINE (maths.h) forces that.
#pragma once

#ifndef DEBLURGAN_CLONES
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define DEBLURGAN_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define DEBLURGAN_CLONES
#endif
#endif
