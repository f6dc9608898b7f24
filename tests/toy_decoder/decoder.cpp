#include "decoder.h"

#include <ATen/ATen.h>

#include "moelora/model/kv_cache.h"
#include "moelora/nn/attention.h"

namespace toy {
namespace {

using moelora::nn::Linear;

constexpr double kEpsilon = 1e-6;

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight) {
  const at::Tensor wide = x.to(at::kFloat);
  return (wide * at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + kEpsilon)).to(x.scalar_type()) * weight;
}

moelora::nn::Rotary rotary_of(const Config& config, const at::Tensor& positions, at::ScalarType dtype) {
  return moelora::nn::make_rotary(positions,
                                  moelora::nn::rotary_frequencies(config.head_dim, 10000.0, positions.device()),
                                  moelora::nn::RotaryPairing::half, dtype);
}

}  // namespace

moelora::model::ExpectedTensors expected_tensors(const Config& config) {
  moelora::model::ExpectedTensors expected;
  auto& tensors = expected.tensors;
  const std::int64_t d = config.hidden_size;
  tensors.push_back({"embed.weight", {config.vocab_size, d}});
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = "blocks." + std::to_string(layer) + ".";
    tensors.push_back({prefix + "attention_norm", {d}});
    tensors.push_back({prefix + "q.weight", {config.heads * config.head_dim, d}});
    tensors.push_back({prefix + "k.weight", {config.kv_heads * config.head_dim, d}});
    tensors.push_back({prefix + "v.weight", {config.kv_heads * config.head_dim, d}});
    tensors.push_back({prefix + "o.weight", {d, config.heads * config.head_dim}});
    tensors.push_back({prefix + "mlp_norm", {d}});
    tensors.push_back({prefix + "up.weight", {3 * d, d}});
    tensors.push_back({prefix + "down.weight", {d, 3 * d}});
  }
  tensors.push_back({"norm", {d}});
  tensors.push_back({"head.weight", {config.vocab_size, d}});
  return expected;
}

BlockImpl::BlockImpl(const Config& config, const moelora::model::TensorSource& source, const std::string& prefix)
    : torch::nn::Module("ToyBlock"), config_(config) {
  const std::int64_t d = config.hidden_size;
  const auto linear = [&](const char* name, std::int64_t in, std::int64_t out) {
    return register_module(name, Linear(source(prefix + name + ".weight", {out, in})));
  };
  attention_norm = register_parameter("attention_norm", source(prefix + "attention_norm", {d}));
  q = linear("q", d, config.heads * config.head_dim);
  k = linear("k", d, config.kv_heads * config.head_dim);
  v = linear("v", d, config.kv_heads * config.head_dim);
  o = linear("o", config.heads * config.head_dim, d);
  mlp_norm = register_parameter("mlp_norm", source(prefix + "mlp_norm", {d}));
  up = linear("up", d, 3 * d);
  down = linear("down", 3 * d, d);
}

at::Tensor BlockImpl::forward(const at::Tensor& x, const moelora::nn::Rotary& rotary,
                              const moelora::nn::RowContext& context, std::int64_t layer,
                              const moelora::model::ForwardOptions& options, bool last) {
  const auto rows = x.size(0);
  const at::Tensor normalised = rms_norm(x, attention_norm);
  const auto heads_of = [&](Linear& linear, std::int64_t heads) {
    return linear->forward(normalised, context).view({rows, heads, config_.head_dim});
  };
  const at::Tensor queries = moelora::nn::apply_rotary(heads_of(q, config_.heads), rotary);
  const at::Tensor keys = moelora::nn::apply_rotary(heads_of(k, config_.kv_heads), rotary);
  const at::Tensor values = heads_of(v, config_.kv_heads);
  const moelora::nn::KeyValuePrefix prefix =
      context.prefix.empty() ? moelora::nn::KeyValuePrefix{} : context.prefix[layer];
  at::Tensor attended = options.cache != nullptr
                            ? options.cache->append_and_attend(layer, queries, keys, values, context, prefix)
                            : moelora::nn::prefix_lm_attention(queries, keys, values, context, prefix);
  attended = attended.reshape({rows, -1});
  at::Tensor kept = x;
  moelora::nn::RowContext after = context;
  if (last && options.output_rows.defined()) {
    attended = attended.index_select(0, options.output_rows);
    kept = x.index_select(0, options.output_rows);
    after = context.select(options.output_rows);
  }
  const at::Tensor y = kept + o->forward(attended, after);
  return y + down->forward(at::silu(up->forward(rms_norm(y, mlp_norm), after)), after);
}

DecoderImpl::DecoderImpl(const Config& config, const moelora::model::TensorSource& source)
    : moelora::model::CausalLM("ToyDecoder"), config_(config) {
  embed =
      register_module("embed", moelora::nn::Embedding(source("embed.weight", {config.vocab_size, config.hidden_size})));
  blocks = register_module("blocks", torch::nn::ModuleList());
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    blocks->push_back(Block(config, source, "blocks." + std::to_string(layer) + "."));
  }
  norm = register_parameter("norm", source("norm", {config.hidden_size}));
  head = register_module("head", Linear(source("head.weight", {config.vocab_size, config.hidden_size})));
  head->refuse_deltas("the head runs on single rows without their RowContext");
}

at::Tensor DecoderImpl::hidden(const at::Tensor& ids, const at::Tensor& positions,
                               const moelora::nn::RowContext& context, const moelora::model::ForwardOptions& options) {
  at::Tensor x = options.input_embeddings.defined() ? options.input_embeddings : embed->forward(ids);
  const moelora::nn::Rotary rotary = rotary_of(config_, positions, x.scalar_type());
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    x = blocks->at<BlockImpl>(layer).forward(x, rotary, context, layer, options, layer + 1 == config_.layers);
  }
  if (options.cache != nullptr) {
    options.cache->advance(context.segments);
  }
  return rms_norm(x, norm);
}

void DecoderImpl::visit_outputs(const at::Tensor& ids, const at::Tensor& positions,
                                const moelora::nn::RowContext& context, const moelora::model::OutputVisitor& visit) {
  at::Tensor x = embed->forward(ids);
  bool wanted = visit("embed", x);
  const moelora::nn::Rotary rotary = rotary_of(config_, positions, x.scalar_type());
  for (std::int64_t layer = 0; wanted && layer < config_.layers; ++layer) {
    x = blocks->at<BlockImpl>(layer).forward(x, rotary, context, layer, {}, false);
    wanted = visit("blocks." + std::to_string(layer), x);
  }
  if (wanted && visit("norm", x = rms_norm(x, norm))) {
    visit("head", logits(x.narrow(0, x.size(0) - 1, 1)));
  }
}

at::Tensor DecoderImpl::positions(const moelora::nn::Segments& segments) const {
  std::vector<at::Tensor> of_segments;
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    of_segments.push_back(at::arange(segments.length(i), at::kLong));
  }
  return at::cat(of_segments).unsqueeze(0);
}

at::Tensor DecoderImpl::position_at(std::int64_t /*bidirectional_rows*/, std::int64_t index) const {
  return at::full({1, 1}, index, at::kLong);
}

moelora::model::ModelShape DecoderImpl::shape() const {
  return {config_.layers,      config_.heads,      config_.kv_heads,           config_.head_dim,
          config_.hidden_size, config_.vocab_size, config_.max_sequence_length};
}

}  // namespace toy
