#include "moelora/nn/attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "moelora/io/error.h"

namespace moelora::nn {
namespace {

// One block of queries of one segment: the context rows, which see the context rows, or the target rows, which see
// everything up to themselves.
struct QueryBlock {
  std::int64_t begin;  // first query row
  std::int64_t count;  // query rows
  std::int64_t first;  // first key row
  std::int64_t keys;   // key rows
  bool causal;         // the last `count` keys are the queries' own rows
};

std::vector<QueryBlock> query_blocks(const Segments& segments) {
  std::vector<QueryBlock> blocks;
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    const auto begin = segments.offsets[i];
    const auto length = segments.length(i);
    const auto context = segments.context[i];
    if (context > 0) {
      blocks.push_back({begin, context, begin, context, false});
    }
    if (length > context) {
      blocks.push_back({begin + context, length - context, begin, length, true});
    }
  }
  return blocks;
}

// [rows, heads, d] → [heads, count, d] without a copy.
at::Tensor heads_first(const at::Tensor& x, std::int64_t begin, std::int64_t count) {
  return x.narrow(0, begin, count).transpose(0, 1);
}

// Softmax over the keys of one block, fp32 [heads, count, keys].
at::Tensor probabilities(const at::Tensor& q, const at::Tensor& k, bool causal, std::int64_t count) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  at::Tensor scores = at::bmm(q * scale, k.transpose(1, 2)).to(at::kFloat);
  if (causal && count > 1) {
    const at::Tensor future = at::ones({count, count}, q.options().dtype(at::kBool)).triu(1);
    at::Tensor own = scores.narrow(2, scores.size(2) - count, count);
    own.masked_fill_(future, -std::numeric_limits<float>::infinity());
  }
  return at::softmax(scores, 2);
}

// Probabilities are recomputed in backward: they are the largest tensors of a block and cheap to make again.
class SegmentAttention : public torch::autograd::Function<SegmentAttention> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, std::vector<QueryBlock> blocks) {
    at::Tensor output = at::empty_like(q, at::MemoryFormat::Contiguous);
    for (const QueryBlock& block : blocks) {
      const at::Tensor p = probabilities(heads_first(q, block.begin, block.count),
                                         heads_first(k, block.first, block.keys), block.causal, block.count);
      heads_first(output, block.begin, block.count)
          .copy_(at::bmm(p.to(v.scalar_type()), heads_first(v, block.first, block.keys)));
    }
    context->save_for_backward({q, k, v});
    context->saved_data["blocks"] = pack(blocks);
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& q = saved[0];
    const at::Tensor& k = saved[1];
    const at::Tensor& v = saved[2];
    const at::Tensor& dy = gradients[0];
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
    at::Tensor dq = at::empty_like(q, at::MemoryFormat::Contiguous);
    at::Tensor dk = at::zeros_like(k, at::MemoryFormat::Contiguous);
    at::Tensor dv = at::zeros_like(v, at::MemoryFormat::Contiguous);
    for (const QueryBlock& block : unpack(context->saved_data["blocks"].toIntVector())) {
      const at::Tensor qb = heads_first(q, block.begin, block.count);
      const at::Tensor kb = heads_first(k, block.first, block.keys);
      const at::Tensor vb = heads_first(v, block.first, block.keys);
      const at::Tensor dyb = heads_first(dy, block.begin, block.count);
      const at::Tensor p = probabilities(qb, kb, block.causal, block.count);
      const at::Tensor dp = at::bmm(dyb, vb.transpose(1, 2)).to(at::kFloat);
      const at::Tensor ds = at::_softmax_backward_data(dp, p, 2, at::kFloat).mul_(scale).to(q.scalar_type());
      heads_first(dv, block.first, block.keys).add_(at::bmm(p.to(v.scalar_type()).transpose(1, 2), dyb));
      heads_first(dq, block.begin, block.count).copy_(at::bmm(ds, kb));
      heads_first(dk, block.first, block.keys).add_(at::bmm(ds.transpose(1, 2), qb));
    }
    return {dq, dk, dv, {}};
  }

 private:
  static std::vector<std::int64_t> pack(const std::vector<QueryBlock>& blocks) {
    std::vector<std::int64_t> flat;
    for (const QueryBlock& b : blocks) {
      flat.insert(flat.end(), {b.begin, b.count, b.first, b.keys, b.causal ? 1 : 0});
    }
    return flat;
  }
  static std::vector<QueryBlock> unpack(const std::vector<std::int64_t>& flat) {
    std::vector<QueryBlock> blocks;
    for (std::size_t i = 0; i < flat.size(); i += 5) {
      blocks.push_back({flat[i], flat[i + 1], flat[i + 2], flat[i + 3], flat[i + 4] == 1});
    }
    return blocks;
  }
};

}  // namespace

at::Tensor prefix_lm_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         const Segments& segments, const KeyValuePrefix& prefix) {
  std::vector<at::Tensor> outputs;
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    const auto begin = segments.offsets[i];
    const auto length = segments.length(i);
    const auto context = segments.context[i];
    at::Tensor keys = heads_first(k, begin, length);
    at::Tensor values = heads_first(v, begin, length);
    std::int64_t extra = 0;
    if (prefix.defined()) {
      const auto of_segment = [&](const at::Tensor& x) {
        return (x.dim() == 4 ? x[i] : x).transpose(0, 1).to(q.scalar_type());
      };
      keys = at::cat({of_segment(prefix.key), keys}, 1);
      values = at::cat({of_segment(prefix.value), values}, 1);
      extra = keys.size(1) - length;
    }
    const at::Tensor queries = heads_first(q, begin, length);
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
    const at::Tensor scores = at::bmm(queries * scale, keys.transpose(1, 2)).to(at::kFloat);
    at::Tensor hidden = at::ones({length, length}, q.options().dtype(at::kBool)).triu(1);
    hidden.narrow(1, 0, context).narrow(0, 0, context).fill_(false);
    hidden = at::constant_pad_nd(hidden, {extra, 0}, 0);
    const at::Tensor p = at::softmax(scores.masked_fill(hidden, -std::numeric_limits<float>::infinity()), 2);
    outputs.push_back(at::bmm(p.to(values.scalar_type()), values).transpose(0, 1));
  }
  return at::cat(outputs, 0);
}

at::Tensor prefix_lm_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Segments& segments,
                               const KeyValuePrefix& prefix) {
  TORCH_INTERNAL_ASSERT(q.dim() == 3 && q.size(0) == segments.rows());
  if (prefix.defined()) {
    return prefix_lm_attention_reference(q, k, v, segments, prefix);
  }
  return SegmentAttention::apply(q, k, v, query_blocks(segments));
}

}  // namespace moelora::nn
