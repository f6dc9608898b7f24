#include "model/llama/decode.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "model/llama/block_parts.h"
#include "moelora/nn/linears_together.h"
#include "moelora/nn/rms_norm.h"
#include "moelora/nn/swiglu.h"
#include "nn/staged_rows.h"

namespace moelora::model {
namespace {

// The operations of a step, each computed as it is met: on every device, with and without an adapter.
class TensorOperations {
 public:
  using Rows = at::Tensor;  // [rows, width]

  TensorOperations(const nn::RowContext& context, KvCache& cache, nn::Rotary rotary, std::int64_t head_dim)
      : context_(context), cache_(cache), rotary_(std::move(rotary)), head_dim_(head_dim) {}

  Rows input(const at::Tensor& x) const { return x.contiguous(); }
  Rows rms_norm(const nn::RmsNormImpl& norm, const Rows& x) const {
    return nn::rms_norm_forward(norm, x.reshape({-1, norm.weight.size(0)})).y.view(x.sizes());
  }
  Rows add_then_rms_norm(const nn::RmsNormImpl& norm, Rows& x, const Rows& residual) const {
    return nn::add_then_rms_norm(norm, x, residual).y;
  }
  std::vector<Rows> products(const std::vector<nn::LinearImpl*>& linears, const Rows& x) const {
    return nn::forward_together(linears, x, context_);
  }
  Rows swiglu(const Rows& gate, const Rows& up) const { return nn::swiglu(gate, up); }
  Rows attention(std::int64_t layer, const Rows& q, const Rows& k, const Rows& v) const {
    return cache_.append_row(layer, heads_of(q), heads_of(k), heads_of(v), rotary_).view(q.sizes());
  }
  std::pair<Rows, Rows> split(const Rows& fused) const {
    nn::GateAndUp parts = nn::gate_and_up(fused);
    return {std::move(parts.gate), std::move(parts.up)};
  }
  at::Tensor compute(const Rows& result) const { return result; }

 private:
  Rows heads_of(const Rows& x) const { return x.view({x.size(0), -1, head_dim_}); }

  const nn::RowContext& context_;
  KvCache& cache_;
  const nn::Rotary rotary_;
  const std::int64_t head_dim_;
};

// The same recorded as stages: few fp32 rows on a CPU, no active adapter.
class StagedOperations {
 public:
  using Rows = nn::StagedRows::Rows;

  StagedOperations(const nn::RowContext& context, KvCache& cache, nn::Rotary rotary)
      : context_(context), cache_(cache), rotary_(std::move(rotary)) {}

  static bool supports(LlamaImpl& model, const at::Tensor& x);

  Rows input(const at::Tensor& x) { return staged_.input(x); }
  Rows rms_norm(const nn::RmsNormImpl& norm, const Rows& x) { return staged_.rms_norm(norm, x); }
  Rows add_then_rms_norm(const nn::RmsNormImpl& norm, Rows& x, const Rows& residual) {
    return staged_.add_then_rms_norm(norm, x, residual);
  }
  std::vector<Rows> products(const std::vector<nn::LinearImpl*>& linears, const Rows& x) {
    for (const nn::LinearImpl* linear : linears) {
      linear->require_context_of_active(context_);
    }
    return staged_.products(linears, x);
  }
  Rows swiglu(const Rows& gate, const Rows& up) { return staged_.swiglu(gate, up); }
  Rows attention(std::int64_t layer, const Rows& q, const Rows& k, const Rows& v) {
    return staged_.attention(q, k, v, cache_.cached(layer), rotary_);
  }
  std::pair<Rows, Rows> split(const Rows& fused) const {
    const auto width = fused.width / 2;
    return {fused.columns(0, width), fused.columns(width, width)};
  }
  at::Tensor compute(const Rows& result) { return staged_.compute(result); }

 private:
  const nn::RowContext& context_;
  KvCache& cache_;
  const nn::Rotary rotary_;
  nn::StagedRows staged_;
};

bool StagedOperations::supports(LlamaImpl& model, const at::Tensor& x) {
  if (!x.is_cpu() || x.scalar_type() != at::kFloat || !nn::StagedRows::takes(*model.model->norm)) {
    return false;
  }
  for (std::int64_t layer = 0; layer < model.shape().layers; ++layer) {
    LlamaBlockImpl& block = model.block(layer);
    const llama::Linears linears = llama::linears_of(block);
    const std::vector<const nn::RmsNormImpl*> norms = llama::norms_of(block);
    const bool all = std::all_of(linears.begin(), linears.end(), [&](const auto* linear) {
      return linear == nullptr || nn::StagedRows::takes(*linear, x.size(0));
    });
    if (!all ||
        !std::all_of(norms.begin(), norms.end(), [](const auto* norm) { return nn::StagedRows::takes(*norm); })) {
      return false;
    }
  }
  return true;
}

template <typename Operations>
at::Tensor decode_by(Operations operations, LlamaImpl& model, const at::Tensor& x) {
  using Rows = typename Operations::Rows;
  const auto layers = model.shape().layers;
  const auto norm_before = [&](std::int64_t layer) -> nn::RmsNormImpl& {
    return layer == layers ? *model.model->norm : *model.block(layer).input_layernorm;
  };
  const auto normalised = [&](const nn::RmsNorm& norm, Rows rows) {
    return norm.is_empty() ? rows : operations.rms_norm(*norm, rows);
  };
  Rows residual = operations.input(x);
  Rows a = operations.rms_norm(norm_before(0), residual);
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    LlamaBlockImpl& block = model.block(layer);
    LlamaAttentionImpl& attention = *block.self_attn;
    LlamaMlpImpl& mlp = *block.mlp;
    const auto mixed = operations.products({attention.q_proj.get(), attention.k_proj.get(), attention.v_proj.get()}, a);
    const Rows attended = operations.attention(layer, normalised(attention.q_norm, mixed[0]),
                                               normalised(attention.k_norm, mixed[1]), mixed[2]);
    Rows sum =
        normalised(block.post_self_attn_layernorm, operations.products({attention.o_proj.get()}, attended).front());
    const Rows m = operations.add_then_rms_norm(*block.post_attention_layernorm, sum, residual);
    residual = std::exchange(sum, Rows());
    std::pair<Rows, Rows> inner;  // gate and up
    if (mlp.gate_up_proj.is_empty()) {
      const auto both = operations.products({mlp.gate_proj.get(), mlp.up_proj.get()}, m);
      inner = {both[0], both[1]};
    } else {
      inner = operations.split(operations.products({mlp.gate_up_proj.get()}, m).front());
    }
    const Rows gated = operations.swiglu(inner.first, inner.second);
    sum = normalised(block.post_mlp_layernorm, operations.products({mlp.down_proj.get()}, gated).front());
    a = operations.add_then_rms_norm(norm_before(layer + 1), sum, residual);
    residual = std::exchange(sum, Rows());
  }
  return operations.compute(a);
}

}  // namespace

at::Tensor decode_rows(LlamaImpl& model, const at::Tensor& x, const at::Tensor& positions,
                       const nn::RowContext& context, KvCache& cache) {
  nn::Rotary rotary = model.rotary(positions, context, x.scalar_type()).to(at::kFloat);
  if (StagedOperations::supports(model, x)) {
    return decode_by(StagedOperations(context, cache, std::move(rotary)), model, x);
  }
  return decode_by(TensorOperations(context, cache, std::move(rotary), model.shape().head_dim), model, x);
}

}  // namespace moelora::model
