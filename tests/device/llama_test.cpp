// A decoder of the Llama kind on the pretend device: steps and tokens of the CPU's, without waits.
#include "moelora/model/llama/llama.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "device/adapted_model.h"
#include "moelora/model/generation.h"

// Names of its own: sources are compiled several at once.
namespace moelora::llama_on_device {
namespace {

using testing::device::pretend_device;
using testing::device::samples_of;
using testing::device::Worst;

struct Case {
  const char* name;
  void (*change)(model::LlamaConfig&) = [](model::LlamaConfig&) {};
  at::ScalarType dtype = at::kFloat;
  double activation_bytes = std::numeric_limits<double>::infinity();
};

std::ostream& operator<<(std::ostream& stream, const Case& one) { return stream << one.name; }

void queries_normalised(model::LlamaConfig& config) {
  config.query_key_norm = true;
  config.head_dim = 16;
}
void interleaved_part(model::LlamaConfig& config) {
  config.pairing = nn::RotaryPairing::interleaved;
  config.rope.partial = 0.5;
  config.fused_gate_up = true;
  config.attention_bias = true;
}

struct Made {
  model::Llama model{nullptr};
  Adapter adapter{nullptr};
};

Made make(const Case& one, const at::Device& device, std::int64_t layers = 2) {
  log::set_level(log::Level::warning);
  at::set_num_threads(1);
  model::LlamaConfig config;
  config.vocab_size = 90;
  config.hidden_size = 32;
  config.intermediate_size = 72;
  config.num_hidden_layers = layers;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  config.eos_token_ids = {2};
  one.change(config);
  Made made;
  made.model = model::Llama(config, model::random_tensors(3, at::kFloat));
  {
    at::NoGradGuard no_grad;
    at::Generator generator = at::detail::createCPUGenerator(5);
    for (at::Tensor& parameter : made.model->parameters()) {
      parameter.add_(at::empty(parameter.sizes()).normal_(0.0, 0.1, generator));
    }
  }
  made.model->to(device, one.dtype);
  freeze(*made.model);
  MoeLoraConfig adapter = train::fixture::tiny_adapter_config(0.1);
  adapter.targets = {"q_proj", "k_proj", "v_proj", "o_proj", "down_proj"};
  adapter.targets.emplace_back(config.fused_gate_up ? "gate_up_proj" : "up_proj");
  made.adapter = inject(*made.model, adapter, TaskNames({"sum", "echo", "rest"}));
  train::fixture::fill_b(made.adapter);
  return made;
}

std::vector<data::Example> examples(int count) {
  std::vector<data::Example> all;
  for (int i = 0; i < count; ++i) {
    data::Example example;
    example.task = i % 3;
    example.label_begin = 3 + i % 4;
    for (int k = 0; k < 8 + i % 7; ++k) {
      example.ids.push_back((7 * i + 11 * k) % 90);
    }
    all.push_back(example);
  }
  return all;
}

class DeviceLlama : public ::testing::TestWithParam<Case> {};

TEST_P(DeviceLlama, StepEqualsTheCpus) {
  const Case& one = GetParam();
  const double tolerance = one.dtype == at::kFloat ? 1e-5 : 3e-2;
  const auto of_step = examples(7);
  Made host = make(one, at::kCPU), device = make(one, pretend_device());
  const auto run = [&](Made& made) {
    return train::accumulate_gradients(*made.model, made.adapter.get(), samples_of(of_step), 9, 64, 1.0, 0,
                                       one.activation_bytes);
  };
  const auto expected = run(host), found = run(device);
  EXPECT_NEAR(found.sum(), expected.sum(), tolerance * expected.sum());
  const auto of_host = adapter_tensors(*host.adapter), of_device = adapter_tensors(*device.adapter);
  Worst worst;
  for (std::size_t i = 0; i < of_host.size(); ++i) {
    ASSERT_TRUE(of_device[i].second.grad().defined()) << of_host[i].first;
    worst.add(of_device[i].second.grad(), of_host[i].second.grad(), of_host[i].first);
  }
  EXPECT_LE(worst.distance, tolerance) << worst.name;
}

class DeviceLlamaTokens : public DeviceLlama {};

TEST_P(DeviceLlamaTokens, EqualTheCpus) {
  const std::vector<model::Prompt> prompts{{{10, 11, 12}, 3}, {{20}, 1}, {{30, 31, 32, 33, 34, 35, 36}, 7}};
  model::GenerationOptions options;
  options.max_new_tokens = 12;
  const auto generate = [&](const at::Device& device) {
    Made made = make(GetParam(), device);
    made.adapter->eval();
    return model::generate(*made.model, prompts, options, [&](const nn::Segments& segments) {
      return made.adapter->context(segments, single_tasks({0, 1, 2}));
    });
  };
  const auto expected = generate(at::kCPU), found = generate(pretend_device());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(found[i].ids, expected[i].ids) << "sequence " << i;
  }
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) { return info.param.name; }

const Case kPlain{"Plain"}, kQueriesNormalised{"QueriesNormalised", queries_normalised},
    kInterleavedPart{"InterleavedPart", interleaved_part};

INSTANTIATE_TEST_SUITE_P(Kinds, DeviceLlama,
                         ::testing::Values(kPlain, kQueriesNormalised, kInterleavedPart,
                                           Case{"Recomputed", interleaved_part, at::kFloat, 1.0},
                                           Case{"Fp16", queries_normalised, at::kHalf}),
                         name_of);

// In fp32: between random logits that nearly tie, a half type's rounding chooses.
INSTANTIATE_TEST_SUITE_P(Kinds, DeviceLlamaTokens, ::testing::Values(kPlain, kQueriesNormalised, kInterleavedPart),
                         name_of);

// A micro-batch costs launches by the layer, whatever the number of segments, and waits for nothing.
TEST(DeviceLlamaBounds, WhateverTheNumberOfSegments) {
  const auto count = [&](std::int64_t layers, int segments) {
    Made made = make({"Plain"}, pretend_device(), layers);
    const auto of_step = examples(segments);
    const auto run = [&] {
      train::accumulate_gradients(*made.model, made.adapter.get(), samples_of(of_step), 9, 4096);
    };
    run();  // makes what is made once
    testing::pretend::reset();
    run();
    return testing::pretend::counters();
  };
  for (const int segments : {3, 60}) {
    const auto two = count(2, segments), three = count(3, segments);
    EXPECT_LE(three.waits, 1) << three.to_text();
    EXPECT_LE(three.uploads, 2) << three.to_text();
    EXPECT_LE(three.operators - two.operators, 110) << three.to_text();
  }
}

}  // namespace
}  // namespace moelora::llama_on_device
