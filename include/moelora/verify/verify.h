#pragma once
// Comparing this build with recorded outputs of the reference implementation ("golden" files). What a folder is gets
// decided by the files in it, never by its name; any subset of the kinds may be present:
//
//   config.json + golden.safetensors            a model's graph: logits, hidden states, losses, greedy ids, inputs
//                                               (padded batches, or whole sequences with adapters beside them)
//   golden.json + golden.safetensors            texts and prompts of a model that --base names: greedy ids, losses
//   adapter_config.json + golden files          a MOELoRA-peft or PEFT LoRA adapter on a base with goldens
//   prefix_encoder.safetensors + golden files   a P-Tuning v2 prefix (pytorch_model.bin as well) on such a base
//   pairs.json, options.json, decode.json, …    a tokenizer; processor_*.json: the data processor
//   expected_metrics.json, rouge_pairs.json     the scorers `moelora` and `promptcblue`

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace moelora::verify {

struct Comparison {
  std::string name;  ///< golden file and entry
  std::int64_t values = 0;
  double difference = 0;  ///< largest absolute difference (or, for tolerances relative to a tensor, over its maximum)
  double tolerance = 0;   ///< 0: equal
  bool passed = false;
  std::string detail;  ///< what was found, where it failed
};

struct VerifyReport {
  std::vector<Comparison> comparisons;
  std::vector<std::string> not_compared;  ///< golden tensors that nothing was compared with: each is a failure
  std::vector<std::string> skipped;       ///< with the reason: pad rows, scores that need a word segmentation
  bool passed() const;
  nlohmann::ordered_json to_json() const;
  std::string to_text() const;
};

struct VerifyOptions {
  /// Model folder of an adapter's goldens, or of recorded texts. Empty: the one sibling folder that fits the adapter.
  std::filesystem::path base;
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  /// Multiplies the tolerances of real-valued comparisons; 1 for the claims, larger for lower precisions and devices.
  double tolerance_factor = 1.0;
};

/// Error: nothing in the folder to compare, a damaged file, no base.
VerifyReport verify_folder(const std::filesystem::path& folder, const VerifyOptions& options = {});

}  // namespace moelora::verify
