#pragma once
// LibTorch's number of threads for a while.

#include <ATen/Parallel.h>

namespace moelora::testing {

/// Sets the number and puts the former one back at the end.
class WithThreads {
 public:
  explicit WithThreads(int threads) { at::set_num_threads(threads); }
  ~WithThreads() { at::set_num_threads(before_); }
  WithThreads(const WithThreads&) = delete;
  WithThreads& operator=(const WithThreads&) = delete;

 private:
  const int before_ = at::get_num_threads();
};

}  // namespace moelora::testing
