#pragma once
// A family of models that is none of the library's: a row's logits depend on its own token alone.
//
//   x = embed(id);  x = x + mix_l(x) for each block l;  logits = head(norm(x))

#include <ATen/ATen.h>
#include <torch/nn/modules/container/modulelist.h>

#include <nlohmann/json.hpp>

#include "data/fakes.h"
#include "moelora/io/dtype.h"
#include "moelora/model/family.h"
#include "moelora/model/kv_cache.h"
#include "moelora/nn/embedding.h"
#include "moelora/nn/layer_norm.h"
#include "moelora/nn/linear.h"

namespace moelora::testing {

struct ToyConfig {
  std::int64_t width = 8;
  std::int64_t layers = 2;
  static constexpr std::int64_t kVocabulary = 304;  // fits data::fakes::ByteTokenizer
};

class ToyBlockImpl : public torch::nn::Module {
 public:
  explicit ToyBlockImpl(at::Tensor weight) { mix = register_module("mix", nn::Linear(std::move(weight))); }
  nn::Linear mix{nullptr};
};
TORCH_MODULE(ToyBlock);

class ToyLM : public model::CausalLM {
 public:
  ToyLM(const ToyConfig& config, const model::TensorSource& source) : model::CausalLM("ToyLM"), config_(config) {
    const std::int64_t d = config.width;
    embed = register_module("embed", nn::Embedding(source("embed.weight", {ToyConfig::kVocabulary, d})));
    blocks = register_module("blocks", torch::nn::ModuleList());
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
      blocks->push_back(ToyBlock(source("blocks." + std::to_string(layer) + ".mix.weight", {d, d})));
    }
    norm = register_module("norm", nn::LayerNorm(source("norm.weight", {d}), source("norm.bias", {d}), 1e-5));
    head = register_module("head", nn::Linear(source("head.weight", {ToyConfig::kVocabulary, d})));
    head->refuse_deltas("the head runs on single rows without their RowContext");
  }

  at::Tensor hidden(const at::Tensor& ids, const at::Tensor&, const nn::RowContext& context,
                    const model::ForwardOptions& options = {}) override {
    at::Tensor x = options.input_embeddings.defined() ? options.input_embeddings : embed->forward(ids);
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      x = x + blocks->at<ToyBlockImpl>(layer).mix->forward(x, context);
    }
    if (options.cache != nullptr) {
      options.cache->advance(context.segments);
    }
    x = norm->forward(x);
    return options.output_rows.defined() ? x.index_select(0, options.output_rows) : x;
  }
  at::Tensor head_weight() const override { return head->weight; }
  at::Tensor logits(const at::Tensor& hidden_rows) override { return head->forward(hidden_rows); }
  void visit_outputs(const at::Tensor& ids, const at::Tensor&, const nn::RowContext& context,
                     const model::OutputVisitor& visit) override {
    at::Tensor x = embed->forward(ids);
    bool wanted = visit("embed", x);
    for (std::int64_t layer = 0; wanted && layer < config_.layers; ++layer) {
      x = x + blocks->at<ToyBlockImpl>(layer).mix->forward(x, context);
      wanted = visit("blocks." + std::to_string(layer), x);
    }
    wanted = wanted && visit("norm", x = norm->forward(x));
    if (wanted) {
      visit("head", logits(x.narrow(0, x.size(0) - 1, 1)));
    }
  }
  at::Tensor positions(const nn::Segments& segments) const override {
    return at::zeros({1, segments.rows()}, at::kLong);  // places mean nothing to it
  }
  at::Tensor position_at(std::int64_t, std::int64_t) const override { return at::zeros({1, 1}, at::kLong); }
  model::ModelShape shape() const override {
    return {config_.layers, 1, 1, config_.width, config_.width, ToyConfig::kVocabulary, 64};
  }

  nn::Embedding embed{nullptr};
  torch::nn::ModuleList blocks{nullptr};
  nn::LayerNorm norm{nullptr};
  nn::Linear head{nullptr};

 private:
  ToyConfig config_;
};

class ToyModelConfig : public model::ModelConfig {
 public:
  explicit ToyModelConfig(const ToyConfig& config) : config_(config) {}
  model::ExpectedTensors expected_tensors() const override {
    const std::int64_t d = config_.width;
    model::ExpectedTensors expected;
    expected.tied_head = model::TiedHead{"embed.weight", "head.weight"};
    expected.tensors.push_back({"embed.weight", {ToyConfig::kVocabulary, d}});
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      expected.tensors.push_back({"blocks." + std::to_string(layer) + ".mix.weight", {d, d}});
    }
    expected.tensors.push_back({"norm.weight", {d}});
    expected.tensors.push_back({"norm.bias", {d}});
    expected.tensors.push_back({"head.weight", {ToyConfig::kVocabulary, d}});
    return expected;
  }
  std::shared_ptr<model::CausalLM> make(const model::TensorSource& source) const override {
    return std::make_shared<ToyLM>(config_, source);
  }
  std::int64_t num_layers() const override { return config_.layers; }
  model::SpecialTokens special_tokens() const override { return {data::fakes::kStart, data::fakes::kEnd, 0}; }
  at::ScalarType declared_dtype() const override { return at::kFloat; }
  nlohmann::ordered_json to_json(at::ScalarType stored) const override {
    return {{"model_type", "toy"},
            {"width", config_.width},
            {"layers", config_.layers},
            {"torch_dtype", io::dtype_name(stored)}};
  }
  std::vector<std::pair<std::string, std::string>> summary() const override {
    return {{"architecture", "Toy"}, {"width", std::to_string(config_.width)}};
  }

 private:
  ToyConfig config_;
};

class ToyFamily : public model::Family {
 public:
  model::FamilyTitle title() const override { return {"Toy", "", "width, layers"}; }
  bool recognises(const nlohmann::ordered_json& config) const override {
    return config.value("model_type", "") == "toy";
  }
  std::shared_ptr<const model::ModelConfig> read_config(const nlohmann::ordered_json& config) const override {
    return std::make_shared<const ToyModelConfig>(ToyConfig{config.at("width"), config.at("layers")});
  }
  std::string tokenizer_file() const override { return "bytes.txt"; }
  bool holds_tokenizer(const std::filesystem::path& path) const override {
    return std::filesystem::exists(path / tokenizer_file());
  }
  std::unique_ptr<model::Tokenizer> load_tokenizer(const std::filesystem::path&,
                                                   const nlohmann::ordered_json&) const override {
    return std::make_unique<data::fakes::ByteTokenizer>();
  }
};

}  // namespace moelora::testing
