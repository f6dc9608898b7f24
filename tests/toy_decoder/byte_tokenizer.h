#pragma once
// A token for each byte, and three special ones: [pad], the one that opens an answer, the one that ends it.

#include "moelora/model/tokenizer.h"

namespace toy {

constexpr std::int64_t kPad = 256;
constexpr std::int64_t kAnswer = 257;
constexpr std::int64_t kEnd = 258;

class ByteTokenizer : public moelora::model::Tokenizer {
 public:
  moelora::model::TokenIds encode(std::string_view text) const override {
    moelora::model::TokenIds ids;
    for (const char c : text) {
      ids.push_back(static_cast<unsigned char>(c));
    }
    return ids;
  }
  std::string decode(const moelora::model::TokenIds& ids) const override {
    std::string text;
    for (const std::int64_t id : ids) {
      if (id < 256) {
        text += static_cast<char>(id);
      }
    }
    return text;
  }
  /// Causal: no row sees a later one.
  moelora::model::Prompt build_prompt(const moelora::model::TokenIds& source) const override {
    moelora::model::Prompt prompt{source, 0};
    prompt.ids.push_back(kAnswer);
    return prompt;
  }
  moelora::model::TrainingPair build_pair(const moelora::model::TokenIds& source,
                                          const moelora::model::TokenIds& target) const override {
    moelora::model::TrainingPair pair{build_prompt(source).ids, 0};
    pair.label_begin = pair.length();
    pair.ids.insert(pair.ids.end(), target.begin(), target.end());
    pair.ids.push_back(kEnd);
    return pair;
  }
  std::int64_t vocab_size() const override { return 259; }
  std::int64_t pad_id() const override { return kPad; }
  std::int64_t eos_id() const override { return kEnd; }
  std::string clean_response(std::string text) const override { return text; }
  std::string fingerprint() const override { return "toy bytes"; }
};

}  // namespace toy
