#pragma once
// Values on their way from a device to the host: whoever reads a tensor waits until the device has computed it, whoever
// sends it first and looks later does not.

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <optional>
#include <vector>

namespace moelora::nn {

class HostCopy {
 public:
  /// Sends fp32 tensors of one device in one copy, without waiting. Those of the CPU are there already; undefined ones
  /// stay undefined.
  explicit HostCopy(std::vector<at::Tensor> tensors);

  bool arrived() const;  ///< Asks, does not wait.
  /// The tensors on the CPU, in their shapes; waits for what has not arrived.
  const std::vector<at::Tensor>& values();

 private:
  std::vector<at::Tensor> tensors_;
  at::Tensor packed_;  // pinned memory of the host; undefined once all is there
  std::optional<c10::Event> sent_;
};

}  // namespace moelora::nn
