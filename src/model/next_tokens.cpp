#include "model/next_tokens.h"

#include <ATen/ATen.h>

#include "moelora/io/finite.h"
#include "moelora/model/sampling.h"
#include "nn/kernels/cuda/sampling.h"
#include "nn/move_together.h"

namespace moelora::model {
namespace {

std::uint64_t stream_of(const GenerationOptions& options, std::size_t prompt) {
  return options.streams.empty() ? prompt : options.streams[prompt];
}

template <typename T>
std::vector<T> at_rows(const std::vector<T>& all, const std::vector<std::int64_t>& rows) {
  std::vector<T> kept;
  for (const std::int64_t row : rows) {
    kept.push_back(all[static_cast<std::size_t>(row)]);
  }
  return kept;
}

class HostTokens : public NextTokens {
 public:
  HostTokens(const CausalLM& model, const std::vector<Prompt>& prompts, const GenerationOptions& options)
      : model_(model) {
    GenerationOptions choices = options;
    choices.streams.clear();  // each sampler keeps a copy
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      prompts_.push_back(&prompts[i]);
      samplers_.emplace_back(choices, stream_of(options, i));
    }
  }

  void choose(const at::Tensor& logits) override {
    logits_ = logits.to(at::kFloat).cpu();
    ++chosen_;
  }

  std::vector<std::int64_t> read() override {
    tokens_.clear();
    if (io::all_finite(logits_)) {
      for (std::size_t row = 0; row < samplers_.size(); ++row) {
        tokens_.push_back(samplers_[row].next(logits_[static_cast<std::int64_t>(row)]));
      }
    }
    return tokens_;
  }

  void keep(const std::vector<std::int64_t>& rows) override {
    prompts_ = at_rows(prompts_, rows);
    samplers_ = at_rows(samplers_, rows);
    tokens_ = at_rows(tokens_, rows);
  }

  at::Tensor ids() const override { return at::tensor(tokens_, at::kLong).to(model_.device()); }

  at::Tensor positions() const override {
    std::vector<at::Tensor> columns;
    for (const Prompt* prompt : prompts_) {
      columns.push_back(model_.position_at(prompt->bidirectional_rows, prompt->length() + chosen_ - 1));
    }
    return at::cat(columns, 1).to(model_.device());
  }

  bool is_on_device() const override { return false; }

 private:
  const CausalLM& model_;
  std::vector<const Prompt*> prompts_;
  std::vector<TokenSampler> samplers_;
  at::Tensor logits_;
  std::vector<std::int64_t> tokens_;
  std::int64_t chosen_ = 0;  // tokens of each sequence
};

class DeviceTokens : public NextTokens {
 public:
  // first, steps [axes, rows]: positions of the rows behind the prompts, and what they grow by from row to row.
  DeviceTokens(const at::Device& device, const at::Tensor& first, at::Tensor steps, const GenerationOptions& options)
      : choice_{options.sample, options.temperature, options.top_k, options.top_p} {
    const auto rows = first.size(1);
    rows_.ids = at::zeros({rows}, at::kLong);
    rows_.positions = first - steps;  // every choice moves them on
    rows_.steps = std::move(steps);
    if (options.sample) {
      rows_.states = at::empty({rows}, at::kLong);
      for (std::int64_t i = 0; i < rows; ++i) {
        rows_.states.mutable_data_ptr<std::int64_t>()[i] =
            static_cast<std::int64_t>(stream_state(options.seed, stream_of(options, static_cast<std::size_t>(i))));
      }
    }
    nn::move_together({&rows_.ids, &rows_.positions, &rows_.steps, &rows_.states}, device);
    rows_.chosen = at::empty({2, rows}, rows_.ids.options());
  }

  void choose(const at::Tensor& logits) override { nn::kernels::choose_tokens(logits, choice_, rows_); }

  std::vector<std::int64_t> read() override {
    const at::Tensor chosen = rows_.chosen.cpu();
    const auto* numbers = chosen.const_data_ptr<std::int64_t>();
    const auto rows = chosen.size(1);
    for (std::int64_t row = 0; row < rows; ++row) {
      if (numbers[rows + row] != 0) {
        return {};
      }
    }
    return {numbers, numbers + rows};
  }

  void keep(const std::vector<std::int64_t>& rows) override {
    at::Tensor kept = at::tensor(rows, at::kLong);
    nn::move_together({&kept}, rows_.ids.device());
    rows_.ids = rows_.ids.index_select(0, kept);
    rows_.positions = rows_.positions.index_select(1, kept);
    rows_.steps = rows_.steps.index_select(1, kept);
    if (rows_.states.defined()) {
      rows_.states = rows_.states.index_select(0, kept);
    }
    rows_.chosen = at::empty({2, kept.size(0)}, rows_.ids.options());
  }

  at::Tensor ids() const override { return rows_.ids; }
  at::Tensor positions() const override { return rows_.positions; }
  bool is_on_device() const override { return true; }

 private:
  nn::kernels::TokenChoice choice_;
  nn::kernels::DecodingRows rows_;
};

}  // namespace

std::unique_ptr<NextTokens> make_next_tokens(const CausalLM& model, const std::vector<Prompt>& prompts,
                                             const GenerationOptions& options) {
  const auto dtype = model.dtype();
  if (model.device().is_cpu() || nn::kernels::launcher_for(model.device().type()) == nullptr ||
      !(dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16)) {
    return std::make_unique<HostTokens>(model, prompts, options);
  }
  const auto last = model.shape().max_sequence_length - 1;
  std::vector<at::Tensor> first, steps;
  for (const Prompt& prompt : prompts) {
    const auto position = [&](std::int64_t index) { return model.position_at(prompt.bidirectional_rows, index); };
    first.push_back(position(prompt.length()));
    steps.push_back(position(prompt.length() + 1) - first.back());
    if (!at::equal(position(last), first.back() + steps.back() * (last - prompt.length()))) {
      return std::make_unique<HostTokens>(model, prompts, options);
    }
  }
  return std::make_unique<DeviceTokens>(model.device(), at::cat(first, 1), at::cat(steps, 1), options);
}

}  // namespace moelora::model
