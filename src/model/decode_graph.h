#pragma once
// A decoding step recorded once and replayed, where launching its kernels one by one would take the host longer than
// the device takes for their work (CUDA graphs). What is recorded is the step as it always is; nothing else differs.

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>

namespace moelora::model {

/// What a device records work with.
class StepRecorder {
 public:
  virtual ~StepRecorder() = default;
  /// Calls step() once, whose work on the device is kept instead of done. It must not wait for the device, nor copy
  /// from the host.
  virtual void record(const std::function<void()>& step) = 0;
  /// Does that work, on the current stream, with the tensors that step() used.
  virtual void replay() = 0;
};

/// Null: the device records nothing. CUDA does, unless the environment has MOELORA_DECODE_GRAPHS=0.
std::unique_ptr<StepRecorder> make_step_recorder(const c10::Device& device);

class DecodeGraph {
 public:
  /// Without a recorder every step runs as it is.
  explicit DecodeGraph(std::unique_ptr<StepRecorder> recorder) : recorder_(std::move(recorder)) {}

  /// Does one step: the first of a form as it is (what is made at first use must not be made while recording), the
  /// second one recorded, later ones replayed. True if step() was not called, so that the books that the host keeps of
  /// it are still to be written. `form`: as long as it is the same, so is the step but for the numbers in its tensors.
  bool run(const std::function<void()>& step, std::int64_t form);
  /// The step's tensors are others from now on.
  void forget() { state_ = State::none; }

 private:
  enum class State { none, seen, recorded };
  std::unique_ptr<StepRecorder> recorder_;
  State state_ = State::none;
  std::int64_t form_ = 0;
};

}  // namespace moelora::model
