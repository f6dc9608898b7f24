#pragma once
// The tiny ChatGLM of the fixtures, an adapter on it, and toy samples.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/data/example.h"
#include "moelora/log/log.h"
#include "moelora/model/chatglm/load.h"
#include "moelora/train/trainer.h"
#include "support/shared.h"

namespace moelora::train::fixture {

inline model::ChatGlm tiny_model() {
  log::set_level(log::Level::warning);
  at::set_num_threads(1);
  return model::load_chatglm(testing::fixtures() / "chatglm-tiny");
}

inline MoeLoraConfig tiny_adapter_config(double dropout) {
  MoeLoraConfig config;
  config.rank = 8;
  config.num_experts = 4;
  config.alpha = 16;
  config.dropout = dropout;
  config.gate.task_embedding_dim = 8;
  config.seed = 5;
  return config;
}

inline Adapter tiny_adapter(model::ChatGlm& model, double dropout = 0.1) {
  return inject(*model, tiny_adapter_config(dropout), TaskNames({"sum", "echo", "rest"}));
}

/// B starts at 0, which hides mistakes in everything behind it.
inline void fill_b(Adapter& adapter) {
  at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(11);
  for (const auto& linear : adapter->linears()) {
    at::Tensor b = linear.delta->tensor("B");
    b.copy_(at::empty(b.sizes()).normal_(0.0, 0.02, generator));  // the same values on any device
  }
}

/// Sequences whose targets follow from their contexts, so that there is something to learn.
inline std::vector<data::Example> toy_examples(int count) {
  std::vector<data::Example> examples;
  for (int i = 0; i < count; ++i) {
    data::Example example;
    example.task = i % 3;
    example.id = "toy-" + std::to_string(i);
    const std::int64_t key = 10 + (i * 7) % 12;
    for (int k = 0; k < 3 + i % 5; ++k) {
      example.ids.push_back(key + k);
    }
    example.ids.push_back(501);  // [gMASK]
    example.label_begin = example.length();
    example.ids.push_back(504);  // <sop>
    example.ids.push_back(40 + example.task);
    example.ids.push_back(key + 60);
    example.ids.push_back(505);  // <eop>
    examples.push_back(example);
  }
  return examples;
}

inline TrainingOptions toy_options(std::int64_t steps) {
  TrainingOptions options;
  options.steps = steps;
  options.batch_size = 6;
  options.micro_batch_tokens = 32;
  options.learning_rate = 5e-3;
  options.warmup_steps = 2;
  options.log_every = 4;
  options.checkpoint_every = 3;
  options.seed = 3;
  options.threads = 1;  // more only wait for each other at these sizes
  return options;
}

inline Callbacks quiet() {
  Callbacks callbacks;
  callbacks.quiet = true;
  return callbacks;
}

inline std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

/// The lines of log.jsonl without what depends on the clock.
inline std::vector<std::string> log_without_times(const std::filesystem::path& output) {
  std::ifstream stream(output / "log.jsonl");
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) {
    nlohmann::ordered_json json = nlohmann::ordered_json::parse(line);
    json.erase("seconds");
    lines.push_back(json.dump());
  }
  return lines;
}

}  // namespace moelora::train::fixture
