#pragma once
// The same model and adapter on the CPU and on the pretend device.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "moelora/adapter/adapter_file.h"
#include "moelora/train/step.h"
#include "support/pretend_device/pretend_device.h"
#include "support/tiny_chatglm.h"
#include "train/fixture.h"

namespace moelora::testing::device {

using ChangeConfig = std::function<void(MoeLoraConfig&)>;

inline at::Device pretend_device() { return pretend::install(); }

struct AdaptedModel {
  model::ChatGlm model{nullptr};
  Adapter adapter{nullptr};
};

inline model::ChatGlm load_tiny(at::Device device, at::ScalarType dtype) {
  log::set_level(log::Level::warning);
  at::set_num_threads(1);
  model::LoadOptions options;
  options.device = device;
  options.dtype = dtype;
  return model::load_chatglm(fixtures() / "chatglm-tiny", options);
}

inline AdaptedModel adapted_model(at::Device device, at::ScalarType dtype = at::kFloat, const ChangeConfig& change = {},
                                  double dropout = 0.1) {
  AdaptedModel made;
  made.model = load_tiny(device, dtype);
  MoeLoraConfig config = train::fixture::tiny_adapter_config(dropout);
  if (change) {
    change(config);
  }
  made.adapter = inject(*made.model, config, TaskNames({"sum", "echo", "rest"}));
  train::fixture::fill_b(made.adapter);
  return made;
}

/// A graph of `layers` small layers with random weights, and an adapter on it, on the pretend device.
inline AdaptedModel deep_model(std::int64_t layers, at::ScalarType dtype = at::kFloat,
                               const ChangeConfig& change = {}) {
  log::set_level(log::Level::warning);
  at::set_num_threads(1);
  model::ChatGlmConfig shape = tiny_config();
  shape.num_layers = layers;
  AdaptedModel made;
  made.model = model::ChatGlm(shape, model::random_tensors(3, dtype));
  made.model->to(pretend_device());
  MoeLoraConfig config = train::fixture::tiny_adapter_config(0.1);
  if (change) {
    change(config);
  }
  made.adapter = inject(*made.model, config, TaskNames({"sum", "echo", "rest"}));
  train::fixture::fill_b(made.adapter);
  return made;
}

/// `count` samples of such a graph, 4 to 8 tokens long, of which the last 2 are labels.
inline std::vector<data::Example> short_examples(int count) {
  std::vector<data::Example> examples;
  for (int i = 0; i < count; ++i) {
    data::Example example;
    example.task = i % 3;
    for (int k = 0; k < 1 + i % 5; ++k) {
      example.ids.push_back(5 + (i + k) % 40);
    }
    example.ids.push_back(91);  // [gMASK]
    example.label_begin = example.length();
    example.ids.push_back(94);  // <sop>
    example.ids.push_back(20 + i % 7);
    examples.push_back(example);
  }
  return examples;
}

inline train::StepSamples samples_of(const std::vector<data::Example>& examples) {
  train::StepSamples samples;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    samples.examples.push_back(&examples[i]);
    samples.draws.push_back(100 + 3 * static_cast<std::int64_t>(i));
  }
  return samples;
}

/// Largest difference, relative to the largest entry of `expected`.
inline double distance(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor x = found.detach().to(at::kCPU, at::kDouble), y = expected.detach().to(at::kCPU, at::kDouble);
  return (x - y).abs().max().item<double>() / std::max(y.abs().max().item<double>(), 1e-30);
}

/// The largest distance over all, and where it is.
struct Worst {
  double distance = 0;
  std::string name = "(none)";
  void add(const at::Tensor& found, const at::Tensor& expected, const std::string& of) {
    const double d = device::distance(found, expected);
    if (!(d <= distance)) {
      distance = d;
      name = of;
    }
  }
};

}  // namespace moelora::testing::device
