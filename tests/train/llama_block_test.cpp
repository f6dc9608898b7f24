// Blocks of the Llama kind, written out forward and backward, against the same blocks by plain operations, and whole
// models against finite differences.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/llama/block_function.h"
#include "moelora/adapter/adapter.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "moelora/log/log.h"
#include "moelora/model/llama/llama.h"

// Names of its own: sources are compiled several at once.
namespace moelora::llama_blocks {
namespace {

const std::filesystem::path kFixtures = MOELORA_TEST_FIXTURES;

/// Every column, head and width is unlike the others, and none is a multiple of a register's width.
model::LlamaConfig small_config() {
  model::LlamaConfig config;
  config.vocab_size = 50;
  config.hidden_size = 36;
  config.intermediate_size = 72;
  config.num_hidden_layers = 1;
  config.num_attention_heads = 6;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  return config;
}

using Change = void (*)(model::LlamaConfig&);
void queries_normalised(model::LlamaConfig& config) { config.query_key_norm = true; }
void interleaved_part(model::LlamaConfig& config) {
  config.pairing = nn::RotaryPairing::interleaved;
  config.rope.partial = 0.5;
  config.fused_gate_up = true;
  config.attention_bias = true;
}
void norms_after(model::LlamaConfig& config) {
  interleaved_part(config);
  config.norms_after = true;
}
void all_biases(model::LlamaConfig& config) {
  config.attention_bias = config.output_bias = config.mlp_bias = true;
  config.num_key_value_heads = 6;
}

std::vector<std::string> all_linears(const model::LlamaConfig& config) {
  std::vector<std::string> names{"q_proj", "k_proj", "v_proj", "o_proj", "down_proj"};
  for (const char* name : {"gate_proj", "up_proj"}) {
    names.emplace_back(config.fused_gate_up ? "gate_up_proj" : name);
  }
  names.resize(config.fused_gate_up ? 6 : 7);
  return names;
}

struct Variant {
  const char* name;
  Change change = nullptr;
  std::vector<std::string> targets = {};  // empty: all
  std::int64_t experts = 4;
  bool per_linear = false;
  double dropout = 0.3;
  bool some_rows = false;
  bool recompute = false;
  at::ScalarType dtype = at::kFloat;
  std::optional<PrefixConfig> prefix = {};
  bool with_targets = true;
};

const std::vector<std::int64_t> kOutputRows{36, 37, 38, 89, 91, 92, 93, 133};

class LlamaBlockByHand : public ::testing::TestWithParam<Variant> {
 protected:
  LlamaBlockByHand() {
    at::manual_seed(4);
    config_ = small_config();
    if (GetParam().change != nullptr) {
      GetParam().change(config_);
    }
    model_ = model::Llama(config_, model::random_tensors(3, GetParam().dtype));
    at::NoGradGuard no_grad;
    for (at::Tensor& parameter : model_->parameters()) {
      parameter.add_(at::randn_like(parameter), 0.1);  // biases and norms that are not 0 and 1
    }
    MoeLoraConfig config;
    config.rank = 8;
    config.num_experts = GetParam().experts;
    config.gate.per_linear = GetParam().per_linear;
    config.dropout = GetParam().dropout;
    config.targets = GetParam().targets;
    if (config.targets.empty() && GetParam().with_targets) {
      config.targets = all_linears(config_);
    }
    config.prefix = GetParam().prefix;
    adapter_ = inject(*model_, config, TaskNames({"a", "b", "c"}));
    for (const auto& linear : adapter_->linears()) {
      // Small enough that attention is spread: where it is not, its gradients are differences of nearly equal numbers.
      linear.delta->tensor("A").normal_(0.0, 0.2);
      linear.delta->tensor("B").normal_(0.0, 0.1);
    }
  }

  struct Run {
    at::Tensor y;
    std::vector<at::Tensor> gradients;
  };

  Run run(bool by_hand, const at::Tensor& x, bool need_dx) {
    // More rows than one chunk of queries and one block of low-rank rows hold.
    const nn::Segments segments = nn::Segments::from_lengths({90, 3, 41});
    const nn::RowContext context = adapter_->context(segments, single_tasks({2, 0, 1}), {9, {5, 6, 7}});
    const nn::Rotary rotary = model_->rotary(model_->positions(segments), context, GetParam().dtype);
    model::LayerInput input{rotary, context, 0, nullptr, {}, {}, GetParam().recompute};
    if (GetParam().some_rows) {
      input.output_rows = at::tensor(kOutputRows, at::kLong);
      input.output_context = context.select(input.output_rows);
    }
    const at::Tensor start = x.detach().clone().set_requires_grad(need_dx);
    model::LlamaBlockImpl& block = model_->block(0);
    Run result;
    result.y = by_hand ? block.forward(start, input) : block.forward_reference(start, input);
    at::manual_seed(8);
    std::vector<at::Tensor> inputs = adapter_->parameters();
    if (need_dx) {
      inputs.push_back(start);
    }
    const at::Tensor probe = at::randn(result.y.sizes()).to(GetParam().dtype);
    result.gradients = torch::autograd::grad({(result.y * probe).sum()}, inputs);
    return result;
  }

  at::Tensor random_rows() const { return at::randn({134, config_.hidden_size}).to(GetParam().dtype); }

  model::LlamaConfig config_;
  model::Llama model_{nullptr};
  Adapter adapter_{nullptr};
};

TEST_P(LlamaBlockByHand, EqualsPlainOperations) {
  const double tolerance = GetParam().dtype == at::kFloat ? 2e-5 : 3e-2;
  const at::Tensor x = random_rows();
  for (const bool need_dx : {true, false}) {
    const Run fast = run(true, x, need_dx);
    const Run plain = run(false, x, need_dx);
    EXPECT_NE(fast.y.grad_fn()->name().find("BlockFunction"), std::string::npos) << fast.y.grad_fn()->name();
    ASSERT_EQ(fast.y.sizes(), plain.y.sizes());
    EXPECT_LE((fast.y - plain.y).abs().max().item<double>(), tolerance * plain.y.abs().max().item<double>());
    for (std::size_t i = 0; i < plain.gradients.size(); ++i) {
      const double scale = plain.gradients[i].abs().max().item<double>();
      EXPECT_GT(scale, 0.0) << "gradient " << i;
      EXPECT_LE((fast.gradients[i] - plain.gradients[i]).abs().max().item<double>(), tolerance * scale)
          << "gradient " << i << (need_dx ? "" : " without dx");
    }
  }
}

TEST_P(LlamaBlockByHand, IsTheSameWithoutRecordingGradients) {
  const at::Tensor x = random_rows();
  const at::Tensor recorded = run(true, x, true).y.detach();
  const nn::Segments segments = nn::Segments::from_lengths({90, 3, 41});
  at::NoGradGuard no_grad;
  const nn::RowContext context = adapter_->context(segments, single_tasks({2, 0, 1}), {9, {5, 6, 7}});
  const nn::Rotary rotary = model_->rotary(model_->positions(segments), context, GetParam().dtype);
  const model::LayerInput input{rotary, context, 0, nullptr, {}, {}, false};
  at::Tensor silent = model_->block(0).forward(x, input);
  if (GetParam().some_rows) {
    silent = silent.index_select(0, at::tensor(kOutputRows, at::kLong));
  }
  const double tolerance = GetParam().dtype == at::kFloat ? 1e-5 : 1e-2;
  EXPECT_LE((recorded - silent).abs().max().item<double>(), tolerance * silent.abs().max().item<double>());
}

INSTANTIATE_TEST_SUITE_P(
    All, LlamaBlockByHand,
    ::testing::Values(Variant{.name = "Dense", .dropout = 0.0}, Variant{.name = "Dropout"},
                      Variant{.name = "SomeRows", .some_rows = true},
                      Variant{.name = "Recomputed", .some_rows = true, .recompute = true},
                      Variant{.name = "PerLinearGates", .experts = 2, .per_linear = true, .some_rows = true},
                      Variant{.name = "OneExpert", .experts = 1}, Variant{.name = "MlpAlone", .targets = {"up_proj"}},
                      Variant{.name = "ValuesAlone", .targets = {"v_proj"}, .some_rows = true},
                      Variant{.name = "QueriesNormalised", .change = queries_normalised, .some_rows = true},
                      Variant{.name = "QueriesNormalisedRecomputed", .change = queries_normalised, .recompute = true},
                      Variant{.name = "InterleavedPart", .change = interleaved_part, .some_rows = true},
                      Variant{.name = "NormsAfter", .change = norms_after, .some_rows = true},
                      Variant{.name = "NormsAfterRecomputed", .change = norms_after, .recompute = true},
                      Variant{.name = "AllBiases", .change = all_biases},
                      Variant{.name = "Bfloat16", .some_rows = true, .dtype = at::kBFloat16},
                      Variant{.name = "Bfloat16Fused", .change = norms_after, .dropout = 0.0, .dtype = at::kBFloat16},
                      Variant{.name = "Prefix", .prefix = PrefixConfig{5}},
                      Variant{.name = "PrefixSomeRows",
                              .change = queries_normalised,
                              .some_rows = true,
                              .recompute = true,
                              .prefix = PrefixConfig{5, true, 0.3}},
                      Variant{.name = "PrefixAlone",
                              .some_rows = true,
                              .prefix = PrefixConfig{5, false, 0.3},
                              .with_targets = false}),
    [](const auto& info) { return std::string(info.param.name); });

/// A fixture's model with an adapter on every linear, whose A, B and gate are all far from 0.
struct Adapted {
  model::Llama model{nullptr};
  Adapter adapter{nullptr};
};

Adapted adapted(const std::string& name, at::ScalarType dtype) {
  log::set_level(log::Level::warning);
  Adapted made;
  const auto config_of = model::LlamaConfig::from_json(io::read_json_file(kFixtures / name / "config.json"));
  const auto weights = io::load_safetensors(kFixtures / name / "model.safetensors");
  made.model = model::Llama(config_of, [&](const std::string& tensor, at::IntArrayRef) {
    const auto found = weights.find(tensor);  // a tied head is not in the file
    return (found != weights.end() ? found->second : weights.at("model.embed_tokens.weight")).to(at::kFloat).clone();
  });
  made.model->to(dtype);
  MoeLoraConfig config;
  config.rank = 8;
  config.num_experts = 4;
  config.dropout = 0.0;
  config.targets = all_linears(made.model->config());
  for (const auto& entry : made.model->named_parameters()) {
    entry.value().set_requires_grad(false);
  }
  made.adapter = inject(*made.model, config, TaskNames({"a", "b", "c"}));
  at::manual_seed(6);
  at::NoGradGuard no_grad;
  for (const auto& [tensor_name, tensor] : adapter_tensors(*made.adapter)) {
    tensor.normal_(0.0, tensor_name.starts_with("linears.") ? 0.05 : 0.3);
  }
  return made;
}

const nn::Segments kSegments = nn::Segments::from_lengths({14, 1, 23});

/// The final hidden states of some rows; `by_hand`: as models run, else by plain operations.
at::Tensor hidden_of(Adapted& made, bool by_hand) {
  const at::Tensor ids = at::arange(kSegments.rows(), at::kLong) * 17 % 640;
  const at::Tensor positions = made.model->positions(kSegments);
  const nn::RowContext context = made.adapter->context(kSegments, single_tasks({2, 0, 1}), {});
  const at::Tensor rows = at::tensor({5, 13, 14, 20, 37}, at::kLong);
  if (by_hand) {
    model::ForwardOptions options;
    options.output_rows = rows;
    return made.model->hidden(ids, positions, context, options);
  }
  at::Tensor x = made.model->model->embed_tokens->forward(ids);
  const nn::Rotary rotary = made.model->rotary(positions, context, x.scalar_type());
  for (std::int64_t layer = 0; layer < made.model->shape().layers; ++layer) {
    x = made.model->block(layer).forward_reference(x, {rotary, context, layer, nullptr, {}, {}});
  }
  return made.model->model->norm->forward(x).index_select(0, rows);
}

at::Tensor loss_of(Adapted& made, bool by_hand) {
  const at::Tensor hidden = hidden_of(made, by_hand);
  at::manual_seed(7);
  return (hidden * at::randn(hidden.sizes(), at::kDouble)).sum();
}

class LlamaGradients : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kFixtures / GetParam() / "config.json")) {
      GTEST_SKIP() << GetParam() << " is not among the fixtures";
    }
  }
};

TEST_P(LlamaGradients, AreThoseOfPlainOperations) {
  Adapted made = adapted(GetParam(), at::kFloat);
  loss_of(made, true).backward();
  std::vector<at::Tensor> found;
  const auto tensors = adapter_tensors(*made.adapter);
  for (const auto& [name, tensor] : tensors) {
    found.push_back(tensor.grad().clone());
    tensor.mutable_grad() = at::Tensor();
  }
  loss_of(made, false).backward();
  for (std::size_t i = 0; i < found.size(); ++i) {
    const at::Tensor expected = tensors[i].second.grad();
    ASSERT_GT(expected.abs().max().item<double>(), 0.0) << tensors[i].first;
    EXPECT_LE((found[i] - expected).abs().max().item<double>(), 1e-4 * expected.abs().max().item<double>())
        << tensors[i].first;
  }
}

// Along each tensor's gradient, and more so its largest element. The model is fp64; the adapter
// stays fp32, and what a step really changed is what counts.
TEST_P(LlamaGradients, AreThoseOfFiniteDifferences) {
  Adapted made = adapted(GetParam(), at::kDouble);
  loss_of(made, true).backward();
  for (const auto& entry : adapter_tensors(*made.adapter)) {
    const at::Tensor tensor = entry.second;
    const at::Tensor gradient = tensor.grad().to(at::kDouble);
    const at::Tensor start = tensor.detach().clone();
    at::Tensor direction = gradient / gradient.norm();
    const auto largest = gradient.abs().argmax().item<std::int64_t>();
    direction.view(-1)[largest] += gradient.view(-1)[largest].sign();
    at::NoGradGuard no_grad;
    const auto at_step = [&](double step) {
      tensor.copy_(start.to(at::kDouble) + step * direction);
      const at::Tensor moved = tensor.to(at::kDouble) - start.to(at::kDouble);
      return std::pair{loss_of(made, true).item<double>(), (moved * gradient).sum().item<double>()};
    };
    const auto ratio = [&](double step) {
      const auto [up, expected_up] = at_step(step);
      const auto [down, expected_down] = at_step(-step);
      return (up - down) / (expected_up - expected_down);
    };
    // Two central differences, of which the error of second order cancels (Richardson). Steps that are too large show
    // the loss's curvature, too small ones the rounding of an fp32 adapter: the best of several counts.
    double nearest = std::numeric_limits<double>::infinity();
    for (const double step : {0.01, 0.02, 0.005, 0.04, 0.0025}) {
      if (nearest <= 1e-4) {
        break;
      }
      nearest = std::min(nearest, std::abs((4.0 * ratio(step / 2) - ratio(step)) / 3.0 - 1.0));
    }
    EXPECT_LE(nearest, 1e-4) << entry.first;
    tensor.copy_(start);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, LlamaGradients,
                         ::testing::Values("qwen2-tiny", "qwen3-tiny", "llama3-tiny", "glm-tiny"),
                         [](const auto& info) {
                           std::string name = info.param;
                           name.erase(std::remove(name.begin(), name.end(), '-'), name.end());
                           return name;
                         });

}  // namespace
}  // namespace moelora::llama_blocks
