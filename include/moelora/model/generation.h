#pragma once
// Generation with a KV cache: greedy or sampled, for batches of prompts of unequal length and mixed tasks.

#include <cstdint>
#include <functional>
#include <vector>

#include "moelora/model/causal_lm.h"
#include "moelora/model/prompt.h"

namespace moelora::model {

struct GenerationOptions {
  std::int64_t max_new_tokens = 196;  ///< The end-of-sequence token counts.
  bool sample = false;                ///< false: greedy; the options below are then ignored.
  double temperature = 1.0;           ///< > 0
  std::int64_t top_k = 0;             ///< 0: all tokens
  double top_p = 1.0;                 ///< (0, 1]; 1: all tokens
  std::uint64_t seed = 0;             ///< Each sequence draws from its own stream (seed, number): no other matters.
  /// The numbers of the prompts' streams; empty: prompt i has number i.
  std::vector<std::uint64_t> streams;
  /// Continue past the model's longest sequence, as transformers does; for comparing with its outputs.
  bool beyond_longest_sequence = false;
  TokenIds end_ids;  ///< Tokens that end an answer (Tokenizer::end_ids); empty: it goes on to max_new_tokens.
};

struct Generation {
  TokenIds ids;           ///< New tokens, without the end-of-sequence token.
  bool finished = false;  ///< The model ended it; false: cut at max_new_tokens or the model's length.
};

/// Boundaries of these prompts, packed in this order.
nn::Segments segments_of(const std::vector<Prompt>& prompts);

/// Called with (prompt index, token) for each new token, in step order.
using TokenCallback = std::function<void(std::int64_t, std::int64_t)>;

/// Optional: receives each step's logits, fp32 [active sequences, vocab], with the prompt indices of its rows.
using LogitsCallback = std::function<void(const at::Tensor&, const std::vector<std::int64_t>&)>;

/// Continues the prompts (Tokenizer::build_prompt). `context` is called once, with the boundaries of all of them in
/// order; the later steps take its expert weights over and find its prefix in the cache. Empty: no adapter.
/// Error if a prompt is empty or leaves no room below the model's maximum length; io::NotFinite, naming the first layer
/// that is not finite, if logits are NaN or infinite.
std::vector<Generation> generate(CausalLM& model, const std::vector<Prompt>& prompts, const GenerationOptions& options,
                                 const nn::ContextMaker& context = {}, const TokenCallback& on_token = {},
                                 const LogitsCallback& on_logits = {});

}  // namespace moelora::model
