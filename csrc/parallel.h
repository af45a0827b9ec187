// A parallel loop. Its threads live for one call only, so a process may fork afterwards (DataLoader workers do), and no
// OpenMP runtime is loaded beside torch's.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace deblurgan {

struct NoScratch {};  // for tasks that need no memory of their own

// What one more thread costs the caller, in ns: 7000 to start it, the rest until it runs and for the join.
constexpr double kThreadCost = 16000.0;

// How many threads, at most `threads`, end `work` ns of work soonest. They start one after another, so that t threads
// take work / t + t kThreadCost, which is least at sqrt(work / kThreadCost).
inline int64_t worthwhile_threads(int64_t threads, double work) {
  return std::min(threads, static_cast<int64_t>(std::sqrt(work / kThreadCost)));
}

// Calls task(scratch, i) for i in [0, count), each about `cost` ns of work, on up to `threads` threads, each with a
// Scratch of its own; the first exception is thrown again here.
template <class Scratch, class Task>
void parallel_for(int64_t count, double cost, int64_t threads, const Task& task) {
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_lock;
  const auto work = [&] {
    try {
      Scratch scratch;
      for (int64_t i; (i = next.fetch_add(1)) < count;) task(scratch, i);
    } catch (...) {
      const std::lock_guard<std::mutex> guard(failure_lock);
      if (!failure) failure = std::current_exception();
      next = count;
    }
  };
  const int64_t worthwhile = worthwhile_threads(std::min(threads, count), static_cast<double>(count) * cost);
  std::vector<std::thread> helpers;
  try {
    for (int64_t i = 1; i < worthwhile; ++i) helpers.emplace_back(work);
  } catch (const std::exception&) {
    // no more threads to be had: those there are do all the work
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace deblurgan
