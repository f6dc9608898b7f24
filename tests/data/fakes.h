#pragma once
// A tokenizer and a model small enough to reckon with by hand.

#include <ATen/ops/zeros.h>

#include "moelora/model/causal_lm.h"
#include "moelora/model/tokenizer.h"

namespace moelora::data::fakes {

constexpr std::int64_t kGmask = 300;
constexpr std::int64_t kStart = 301;
constexpr std::int64_t kEnd = 302;

/// One id per byte.
class ByteTokenizer : public model::Tokenizer {
 public:
  model::TokenIds encode(std::string_view text) const override {
    model::TokenIds ids;
    for (const char c : text) {
      ids.push_back(static_cast<unsigned char>(c));
    }
    return ids;
  }
  std::string decode(const model::TokenIds& ids) const override {
    std::string text;
    for (const std::int64_t id : ids) {
      if (id < 256) {
        text.push_back(static_cast<char>(id));
      }
    }
    return text;
  }
  model::Prompt build_prompt(const model::TokenIds& source) const override {
    model::Prompt prompt{source, static_cast<std::int64_t>(source.size()) + 1};
    prompt.ids.insert(prompt.ids.end(), {kGmask, kStart});
    return prompt;
  }
  model::TrainingPair build_pair(const model::TokenIds& source, const model::TokenIds& target) const override {
    const model::Prompt prompt = build_prompt(source);
    model::TrainingPair pair{prompt.ids, prompt.bidirectional_rows};
    pair.ids.insert(pair.ids.end(), target.begin(), target.end());
    pair.ids.push_back(kEnd);
    return pair;
  }
  std::string conversation_text(const std::vector<std::pair<std::string, std::string>>& history,
                                std::string_view question) const override {
    std::string text;
    for (const auto& [asked, answered] : history) {
      text += "Q:" + asked + " A:" + answered + " ";
    }
    return text + "Q:" + std::string(question) + " A:";
  }
  std::int64_t vocab_size() const override { return 303; }
  std::int64_t pad_id() const override { return 0; }
  std::int64_t eos_id() const override { return kEnd; }
  std::string clean_response(std::string text) const override { return text; }
  std::string fingerprint() const override { return "bytes"; }
};

/// Only positions: row 0 counts the segments, row 1 the rows in each. A prefix-LM, or causal.
class PositionsOnlyLM : public model::CausalLM {
 public:
  at::Tensor hidden(const at::Tensor&, const at::Tensor&, const nn::RowContext&,
                    const model::ForwardOptions&) override {
    return {};
  }
  at::Tensor logits(const at::Tensor& hidden_rows) override { return hidden_rows; }
  at::Tensor head_weight() const override { return {}; }
  at::Tensor positions(const nn::Segments& segments) const override {
    at::Tensor positions = at::zeros({2, segments.rows()}, at::kLong);
    for (std::int64_t s = 0; s < segments.count(); ++s) {
      for (std::int64_t row = segments.offsets[s]; row < segments.offsets[s + 1]; ++row) {
        positions.data_ptr<std::int64_t>()[row] = s;
        positions.data_ptr<std::int64_t>()[segments.rows() + row] = row - segments.offsets[s];
      }
    }
    return positions;
  }
  at::Tensor position_at(std::int64_t, std::int64_t) const override { return {}; }
  nn::Segments segments(const std::vector<std::int64_t>& lengths,
                        const std::vector<std::int64_t>& label_begins) const override {
    return causal ? CausalLM::segments(lengths, label_begins) : nn::Segments::from_lengths(lengths, label_begins);
  }
  model::ModelShape shape() const override { return {1, 1, 1, 4, 4, 303, 64}; }

  bool causal = false;
};

}  // namespace moelora::data::fakes
