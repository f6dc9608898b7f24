#pragma once
// Token sequences in the form of a model family: what a prompt or a training sequence looks like is the tokenizer's
// knowledge (model/tokenizer.h), and so are the two numbers that go with it. Neither implies the other.

#include <cstdint>
#include <vector>

namespace moelora::model {

using TokenIds = std::vector<std::int64_t>;

/// What generation continues.
struct Prompt {
  TokenIds ids;
  /// Leading rows that attend to each other in both directions; 0 for a causal model, and for a prefix-LM the rows of
  /// its context. See nn::Segments.
  std::int64_t bidirectional_rows = 0;

  std::int64_t length() const { return static_cast<std::int64_t>(ids.size()); }
};

/// A source with the target that is to be learned.
struct TrainingPair {
  TokenIds ids;
  std::int64_t label_begin = 0;  ///< index in `ids` of the first token that is a label

  std::int64_t length() const { return static_cast<std::int64_t>(ids.size()); }
};

}  // namespace moelora::model
