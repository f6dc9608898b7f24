#include "gpu/bench/model.h"

#include <ATen/ATen.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include "benchmarks/model_s.h"
#include "moelora/io/error.h"

namespace moelora::bench {

model::ChatGlmConfig config_of(const std::string& shape) {
  model::ChatGlmConfig config = config_s();
  if (shape == "6b") {
    config.vocab_size = 130528;
    config.hidden_size = 4096;
    config.num_layers = 28;
    config.num_attention_heads = 32;
    config.inner_hidden_size = 16384;
    config.max_sequence_length = 2048;
    config.bos_token_id = 130004;
    config.eos_token_id = 130005;
    config.mask_token_id = 130000;
    config.gmask_token_id = 130001;
  } else if (shape == "tiny") {
    config.hidden_size = 64;
    config.num_layers = 3;
    config.num_attention_heads = 4;
    config.inner_hidden_size = 256;
  } else {
    MOELORA_CHECK(shape == "small", "--shape: expected 6b, small or tiny, found '", shape, "'");
  }
  return config;
}

model::ChatGlm random_model(const DeviceOptions& options) {
  const model::ChatGlmConfig config = config_of(options.shape);
  const auto on = at::TensorOptions(options.device).dtype(options.dtype);
  model::TensorSource source = [on](const std::string& name, at::IntArrayRef shape) {
    if (name.ends_with(".bias")) {
      return at::zeros(shape, on);
    }
    return shape.size() == 1 ? at::ones(shape, on) : at::empty(shape, on).normal_(0.0, 0.02);
  };
  if (const auto tied = model::expected_tensors(config).tied_head) {
    source = model::with_tied_head(std::move(source), *tied);
  }
  model::ChatGlm model(config, source);
  freeze(*model);
  return model;
}

Adapter random_adapter(model::ChatGlm& model) { return adapter_s(model, adapter_config_s(), "default", /*tasks=*/8); }

void wait_for(const at::Device& device) {
  if (device.is_cuda()) {
    at::detail::getCUDAHooks().deviceSynchronize(device.index());
  }
}

double peak_tflops(const std::string& card) {
  constexpr std::pair<const char*, double> kCards[] = {{"V100", 125.0},     {"A100", 312.0}, {"H100 PCIe", 756.0},
                                                       {"H100 NVL", 835.0}, {"H100", 989.0}, {"H200", 989.0}};
  for (const auto& [name, peak] : kCards) {
    if (card.find(name) != std::string::npos) {
      return peak;
    }
  }
  return 0.0;
}

}  // namespace moelora::bench
