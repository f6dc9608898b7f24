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
  model::TokenIds build_prompt(const model::TokenIds& source) const override {
    model::TokenIds ids = source;
    ids.insert(ids.end(), {kGmask, kStart});
    return ids;
  }
  model::TokenIds build_pair(const model::TokenIds& source, const model::TokenIds& target) const override {
    model::TokenIds ids = build_prompt(source);
    ids.insert(ids.end(), target.begin(), target.end());
    ids.push_back(kEnd);
    return ids;
  }
  std::int64_t context_length(std::int64_t source_length) const override { return source_length + 1; }
  std::int64_t prompt_overhead() const override { return 2; }
  std::int64_t vocab_size() const override { return 303; }
  std::int64_t pad_id() const override { return 0; }
  std::int64_t eos_id() const override { return kEnd; }
  std::string clean_response(std::string text) const override { return text; }
  std::string fingerprint() const override { return "bytes"; }
};

/// Only positions: row 0 counts the segments, row 1 the rows in each.
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
  std::int64_t vocab_size() const override { return 303; }
  std::int64_t hidden_size() const override { return 4; }
  std::int64_t num_layers() const override { return 1; }
  std::int64_t num_heads() const override { return 1; }
  std::int64_t max_sequence_length() const override { return 64; }
};

}  // namespace moelora::data::fakes
