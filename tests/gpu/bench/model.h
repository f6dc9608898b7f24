#pragma once
// The models that device benchmarks run: ChatGLM-6B's shape, and smaller ones to try the benchmarks themselves.

#include <string>

#include "moelora/adapter/adapter.h"
#include "moelora/model/chatglm/chatglm.h"

namespace moelora::bench {

struct DeviceOptions {
  at::Device device = at::kCUDA;
  at::ScalarType dtype = at::kHalf;
  std::string shape = "6b";  ///< 6b, small, tiny
  double peak_tflops = 0.0;  ///< of products in `dtype`; 0: by the card's name, if it is known
  std::int64_t micro_batch_tokens = 4096;
  std::int64_t samples = 64;  ///< of one step
  int rounds = 15;
};

model::ChatGlmConfig config_of(const std::string& shape);
/// Random weights, drawn on the device, frozen; the head is the embedding, as published.
model::ChatGlm random_model(const DeviceOptions& options);
/// N 8, r 16, alpha 32, dropout 0.1, all four linears, B random, eight tasks.
Adapter random_adapter(model::ChatGlm& model);

/// Until the device has done all that it was asked for.
void wait_for(const at::Device& device);

/// 10^12 operations per second of the card's products in 16 bits without sparsity, by its maker; 0: unknown.
double peak_tflops(const std::string& card);

}  // namespace moelora::bench
