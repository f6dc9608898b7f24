#pragma once
// What the ranks exchange while they train. A step is one all-reduce of one flat fp32 buffer.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "moelora/io/safetensors.h"
#include "moelora/train/process_group.h"
#include "moelora/train/step.h"

namespace moelora::train {

/// A rank's samples of a step, by index: balanced by tokens, the same division on every rank.
std::vector<std::int64_t> samples_of_rank(const std::vector<const data::Example*>& examples, const ProcessGroup& ranks);

class StepExchange {
 public:
  /// `parameters`: what is trained; their shapes give the buffer's.
  StepExchange(ProcessGroup& ranks, const io::NamedTensors& parameters);

  /// What one rank brings, and what all get: the sums.
  struct Share {
    std::vector<at::Tensor> gradients;  ///< [parameters] fp32, of the parameters' shapes; undefined where none.
    std::vector<double> losses;         ///< [samples of the step]; 0 where another rank has the sample.
    bool stop = false;                  ///< The sum: whether any rank asks for it.
  };
  /// The gradients are views of the buffer, good until the next call. One that no rank has stays undefined.
  Share sum(const Share& share);

  /// The same for gradients and losses of a device, without reading them: the device is not waited for where the ranks'
  /// sums are not (NCCL).
  struct DeviceTotal {
    std::vector<at::Tensor> gradients;  ///< As in Share.
    LabelLosses losses;                 ///< Of all samples of the step.
    bool stop = false;
  };
  /// `own`: the losses of the samples `mine` (indices into `all`).
  DeviceTotal sum_on_device(const std::vector<at::Tensor>& gradients, const LabelLosses& own,
                            const std::vector<const data::Example*>& all, const std::vector<std::int64_t>& mine,
                            bool stop);

 private:
  std::vector<at::Tensor> slots() const;
  ProcessGroup& ranks_;
  std::vector<std::vector<std::int64_t>> shapes_;
  std::vector<std::int64_t> begins_;  ///< Of each parameter in the buffer; one more: the end of them.
  at::Device device_;
  at::Tensor buffer_;
};

/// The losses of samples of which each rank has computed its own. `mine` and `own` belong together; `all` gives the
/// number of labels and tokens of every sample.
SampleLosses gather_losses(ProcessGroup& ranks, const std::vector<const data::Example*>& all,
                           const std::vector<std::int64_t>& mine, const SampleLosses& own);

/// Error naming a rank and the keys in which it differs from rank 0: they would not train one model.
void check_same_on_ranks(ProcessGroup& ranks, const nlohmann::ordered_json& own);

/// `sums` with the label and token counts of `examples`.
SampleLosses losses_of(const std::vector<const data::Example*>& examples, std::vector<double> sums);

}  // namespace moelora::train
