#pragma once
// LibTorch's TCP store, its Gloo backend, and NCCL for tensors of GPUs where the build has it. Their headers take half
// a minute to compile: gloo.cpp alone includes them.

#include <ATen/core/Tensor.h>

#include <chrono>
#include <memory>
#include <string>

#include "moelora/train/process_group.h"
#include "train/rank_watch.h"

namespace moelora::train {

class Gloo {
 public:
  static bool available();  ///< Whether gloo's headers were there when this was built.

  /// Meets the others at the store. RankLost naming those that don't come in time.
  static std::unique_ptr<Gloo> join(const RankPlace& place, std::chrono::milliseconds time);
  virtual ~Gloo() = default;

  /// A connection of its own; holds each rank's first beat and an empty failure text.
  virtual std::shared_ptr<RankStore> rank_store() = 0;
  /// Connects the ranks with each other.
  virtual void connect(std::chrono::milliseconds time) = 0;
  /// Begins to replace `values` (CPU, contiguous) by their sum.
  virtual void begin_sum(const at::Tensor& values) = 0;
  /// Whether that has ended well within `time`. If it failed, says why.
  virtual bool wait(std::chrono::milliseconds time, std::string& failure) = 0;
  /// Whether sum_on_device takes tensors of this device: with NCCL those of a GPU, of which each rank has its own.
  virtual bool sums_on(const at::Device& device) const = 0;
  /// Replaces `values` (contiguous) by their sum, in the order of the device's current stream: the host does not wait.
  virtual void sum_on_device(const at::Tensor& values) = 0;
  /// The backend may still work on something that never ends: it is left to itself.
  virtual void abandon() = 0;
};

}  // namespace moelora::train
