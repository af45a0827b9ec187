// Runs csrc/*.cuh on the host: a CUDA thread is a thread, blocks follow one another, so static memory is shared memory.
// The thread sanitizer then sees every missing __syncthreads(), the address sanitizer every index.
#pragma once
#include <pthread.h>

#include <cstdint>
#include <thread>
#include <vector>

#define __global__ inline
#define __shared__ static

struct Index {
  unsigned x = 0;
};
inline thread_local Index threadIdx, blockIdx;
inline Index blockDim, gridDim;
inline pthread_barrier_t block_barrier;

inline void __syncthreads() { pthread_barrier_wait(&block_barrier); }

inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline int atomicOr(int* at, int value) { return __atomic_fetch_or(at, value, __ATOMIC_RELAXED); }
inline int atomicMin(int* at, int value) {
  int old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (value < old && !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
inline int atomicMax(int* at, int value) {
  int old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (value > old && !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

template <class Args>
void launch(void (*kernel)(Args), unsigned blocks, unsigned threads, const Args& args) {
  gridDim.x = blocks;
  blockDim.x = threads;
  pthread_barrier_init(&block_barrier, nullptr, threads);
  std::vector<std::thread> block;
  for (unsigned thread = 0; thread < threads; ++thread)
    block.emplace_back([=] {
      threadIdx.x = thread;
      for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        kernel(args);
        __syncthreads();
      }
    });
  for (std::thread& thread : block) thread.join();
  pthread_barrier_destroy(&block_barrier);
}
