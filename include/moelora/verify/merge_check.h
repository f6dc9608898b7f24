#pragma once
// Is a merged model the adapter? Greedy answers with the adapter and with its update folded into the weights must be
// the same tokens, or part where the model itself was undecided: the margin between its two best tokens is below 1e-4.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/adapter/merge.h"
#include "moelora/model/generation.h"

namespace moelora::verify {

struct MergeCheckOptions {
  model::GenerationOptions generation;  ///< Decoding is greedy, whatever it says.
  std::int64_t batch_size = 16;
  double margin = 1e-4;
};

struct MergeCheck {
  std::string task;
  std::int64_t prompts = 0;
  std::int64_t equal = 0;      ///< the same ids
  std::int64_t undecided = 0;  ///< first difference where the adapter's margin is below the bound
  std::int64_t different = 0;  ///< first difference elsewhere: the merge changed the model
  double largest_margin = 0;   ///< at the first differences; 0 when there are none
  bool passed() const { return prompts > 0 && different == 0; }
  nlohmann::ordered_json to_json() const;
};

/// Answers the prompts (Tokenizer::build_prompt) of one task with the adapter, merges the task with `merge`, and
/// answers them again. The adapter is enabled and unmerged before; it is merged afterwards. Error: no prompts, which
/// would compare nothing; io::NotFinite where logits are not finite.
MergeCheck check_merge(model::CausalLM& model, Adapter& adapter, std::string_view task,
                       const std::vector<model::Prompt>& prompts, const MergeCheckOptions& options,
                       const MergeOptions& merge, Certificate& certificate);

}  // namespace moelora::verify
