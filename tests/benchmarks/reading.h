#pragma once
// How fast this machine's threads can read a model's weights: the limit of decoding one sequence, which reads each of
// them once for each token.

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace moelora::bench {

/// Reads tensors with every form of reader that this processor runs (number of streams, distance of fetching ahead,
/// instruction set) and remembers the fastest pass of all.
class ReadingLimit {
 public:
  /// `tensors`: fp32, contiguous; the very memory whose reading is in question, on the pages that it has.
  explicit ReadingLimit(std::vector<at::Tensor> tensors);

  /// One pass of each form.
  void measure();
  /// Something else was seen to read all of it in this time, so it can be read as fast.
  void was_read_in(double seconds, const std::string& by);

  double bytes() const;
  double seconds() const { return seconds_; }         ///< of the fastest pass
  const std::string& fastest() const { return by_; }  ///< which one it was

 private:
  std::vector<at::Tensor> tensors_;
  double seconds_;
  std::string by_;
};

}  // namespace moelora::bench
