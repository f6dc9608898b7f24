#include "moelora/model/llama/rotary.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moelora::model {
namespace {

using Type = LlamaRope::Type;

/// The columns that the exponents count by: before an odd share is rounded up.
std::int64_t turning_columns(const LlamaConfig& config) {
  return static_cast<std::int64_t>(static_cast<double>(config.head_dim) * config.rope.partial);
}

at::Tensor exponents_of(const LlamaConfig& config) {
  const std::int64_t d = turning_columns(config);
  return at::arange(0, d, 2, at::kFloat) / static_cast<double>(d);
}

at::Tensor llama3_frequencies(const at::Tensor& plain, const LlamaRope& rope) {
  const auto original = static_cast<double>(rope.original_max_position_embeddings);
  const at::Tensor wavelength = 2.0 * std::numbers::pi / plain;
  const at::Tensor slow = wavelength > original / rope.low_freq_factor;
  const at::Tensor fast = wavelength < original / rope.high_freq_factor;
  const at::Tensor scaled = at::where(slow, plain / rope.factor, plain);
  const at::Tensor ramp =
      (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor between = (1.0 - ramp) * scaled / rope.factor + ramp * scaled;
  return at::where(slow.logical_or(fast), scaled, between);
}

at::Tensor yarn_frequencies(const LlamaConfig& config) {
  const LlamaRope& rope = config.rope;
  const auto d = static_cast<double>(turning_columns(config));
  const auto original = static_cast<double>(rope.original_max_position_embeddings);
  // The pair that turns so many times within the original length.
  const auto pair_of = [&](double turns) {
    return d * std::log(original / (turns * 2.0 * std::numbers::pi)) / (2.0 * std::log(rope.theta));
  };
  double low = pair_of(rope.beta_fast);
  double high = pair_of(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1.0);
  if (low == high) {
    high += 0.001;
  }
  const at::Tensor wide = at::pow(rope.theta, exponents_of(config));
  const at::Tensor ramp = at::clamp((at::arange(wide.size(0), at::kFloat) - low) / (high - low), 0.0, 1.0);
  const at::Tensor kept = 1.0 - ramp;
  return 1.0 / (rope.factor * wide) * (1.0 - kept) + 1.0 / wide * kept;
}

}  // namespace

at::Tensor llama_frequencies(const LlamaConfig& config) {
  if (config.rope.type == Type::yarn) {
    return yarn_frequencies(config);
  }
  at::Tensor plain = 1.0 / at::pow(config.rope.theta, exponents_of(config));
  switch (config.rope.type) {
    case Type::linear:
      return plain / config.rope.factor;
    case Type::llama3:
      return llama3_frequencies(plain, config.rope);
    default:
      return plain;
  }
}

double llama_attention_factor(const LlamaConfig& config) {
  const LlamaRope& rope = config.rope;
  if (rope.type != Type::yarn) {
    return 1.0;
  }
  if (rope.attention_factor) {
    return *rope.attention_factor;
  }
  const auto scale = [&](double mscale) {
    return rope.factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(rope.factor) + 1.0;
  };
  return rope.mscale != 0.0 && rope.mscale_all_dim != 0.0 ? scale(rope.mscale) / scale(rope.mscale_all_dim)
                                                          : scale(1.0);
}

LlamaRotary::LlamaRotary(const LlamaConfig& config)
    : config_(config),
      attention_factor_(llama_attention_factor(config)),
      frequencies_(llama_frequencies(config)),
      exponents_(exponents_of(config)) {}

at::Tensor LlamaRotary::frequencies_on(const at::Device& device) const {
  const std::lock_guard lock(mutex_);
  if (frequencies_.device() != device) {
    frequencies_ = frequencies_.to(device);
    exponents_ = exponents_.to(device);
  }
  return frequencies_;
}

at::Tensor LlamaRotary::dynamic_frequencies(const at::Tensor& positions, const nn::RowContext& context) const {
  const auto most = static_cast<double>(config_.max_position_embeddings);
  const double factor = config_.rope.factor;
  const auto d = static_cast<double>(turning_columns(config_));
  const at::Tensor lengths = at::zeros({context.segments.count()}, positions.options())
                                 .scatter_reduce(0, context.segment_of_row, positions, "amax")
                                 .index_select(0, context.segment_of_row)
                                 .add_(1);  // [rows]
  const at::Tensor longer = lengths > config_.max_position_embeddings;
  const at::Tensor theta =
      config_.rope.theta *
      at::pow(factor * lengths.to(at::kFloat).clamp_min(most) / most - (factor - 1.0), d / (d - 2.0));
  const at::Tensor stretched = 1.0 / at::pow(theta.unsqueeze(1), exponents_.unsqueeze(0));
  return at::where(longer.unsqueeze(1), stretched, frequencies_.unsqueeze(0));
}

nn::Rotary LlamaRotary::tables(const at::Tensor& positions, const nn::RowContext& context, at::ScalarType dtype) const {
  const at::NoGradGuard no_grad;
  const at::Tensor frequencies = frequencies_on(positions.device());
  if (config_.rope.type != Type::dynamic && attention_factor_ == 1.0) {
    return nn::make_rotary(positions, frequencies, config_.pairing, dtype);
  }
  const at::Tensor row = positions[0];
  const at::Tensor angles = config_.rope.type == Type::dynamic
                                ? row.to(at::kFloat).unsqueeze(1) * dynamic_frequencies(row, context)
                                : nn::rotary_angles(row, frequencies);
  const at::Tensor of_columns =
      config_.pairing == nn::RotaryPairing::interleaved ? angles.repeat_interleave(2, 1) : at::cat({angles, angles}, 1);
  return {{(of_columns.cos() * attention_factor_).to(dtype), (of_columns.sin() * attention_factor_).to(dtype)},
          config_.pairing};
}

}  // namespace moelora::model
