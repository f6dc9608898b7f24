#pragma once
// The tensors' file of a MOELoRA-peft or PEFT adapter, sorted by linear.

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "moelora/adapter/foreign.h"

namespace moelora {

/// What a checkpoint holds for one linear. PEFT: factor 0 is the whole A or B.
struct ForeignLinear {
  std::map<std::int64_t, at::Tensor> A;
  std::map<std::int64_t, at::Tensor> B;
  at::Tensor task_embedding;
  at::Tensor gate;
};

struct ForeignTensors {
  std::string origin;  ///< The file that was read.
  std::map<std::string, ForeignLinear> linears;
  at::Tensor task_embedding;
  at::Tensor gate;
  std::vector<std::string> problems;  ///< Everything in the file that has no place in such an adapter.

  std::vector<ForeignShape> shapes() const;  ///< Of the linears; those with factors that are no matrices are left out.
};

/// Reads adapter_model.safetensors, or else adapter_model.bin; where both are there it says which was read, and warns
/// of tensors that differ. Names may carry what wrappers add (io/saved_names.h) and the adapter's name
/// ("lora_A.default.weight"). Error: neither file, one without tensors, or one with several adapters.
ForeignTensors read_foreign_tensors(const std::filesystem::path& folder, bool moelora);

}  // namespace moelora
