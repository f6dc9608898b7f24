#pragma once
// One task of an adapter as an ordinary LoRA: what formats hold that know one update per linear.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/io/safetensors.h"

namespace moelora {

/// ΔW = alpha / rank · B A of one linear.
struct TaskLoraLinear {
  std::string name;
  at::Tensor A;  ///< [rank, d_in] fp32 on the CPU
  at::Tensor B;  ///< [d_out, rank] fp32 on the CPU, with the expert weights inside
};

struct TaskLora {
  std::int64_t rank = 0;
  double alpha = 0.0;  ///< alpha / rank is the adapter's scale, bit for bit.
  std::vector<TaskLoraLinear> linears;
};

/// A stays, B diag(ω) is the new B; above the adapter's own rank, up to `padded_rank` (0: none), A has rows and B
/// columns of zeros. Error: the adapter can't be exported, an unknown task, a linear whose update has another rank or
/// scale, a padded rank that is too small or at which no alpha gives the same scale; io::NotFinite.
TaskLora task_lora(const AdapterImpl& adapter, std::string_view task, std::int64_t padded_rank = 0);

/// Error unless other programs' formats can hold the adapter, all of its numbers finite.
void require_exportable(const AdapterImpl& adapter);

/// fp32, contiguous, on the CPU.
at::Tensor exported(const at::Tensor& tensor);

/// Error io::NotFinite naming the first tensor that holds NaN or infinity.
void require_finite_export(const io::NamedTensors& tensors);

}  // namespace moelora
