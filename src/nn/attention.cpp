#include "moelora/nn/attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "moelora/io/error.h"
#include "nn/device_attention.h"
#include "nn/kernels/cpu/attention.h"
#include "nn/move_together.h"
#include "nn/prefixed_rows.h"

namespace moelora::nn {
namespace {

using kernels::HeadRows;
using kernels::query_chunks;
using kernels::QueryChunk;

// One block of queries of one segment: the bidirectional rows, which see each other, or the rows behind them, which see
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
    const auto both_ways = segments.bidirectional[i];
    if (both_ways > 0) {
      blocks.push_back({begin, both_ways, begin, both_ways, false});
    }
    if (length > both_ways) {
      blocks.push_back({begin + both_ways, length - both_ways, begin, length, true});
    }
  }
  return blocks;
}

// [rows, heads, d] → [heads, count, d] without a copy.
at::Tensor heads_first(const at::Tensor& x, std::int64_t begin, std::int64_t count) {
  return x.narrow(0, begin, count).transpose(0, 1);
}

// [heads, count, d] → [kv_heads, count, d]: sums over the query heads that share a head.
at::Tensor sum_of_groups(const at::Tensor& x, std::int64_t kv_heads) {
  return x.size(0) == kv_heads ? x : x.unflatten(0, {kv_heads, x.size(0) / kv_heads}).sum(1);
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

bool has_kernel(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat && x.stride(2) == 1; }

template <typename pointer>
HeadRows<pointer> head_rows(pointer data, const at::Tensor& x) {
  return {data, x.stride(0), x.stride(1)};
}
HeadRows<const float*> values_of(const at::Tensor& x) { return head_rows(x.const_data_ptr<float>(), x); }
HeadRows<float*> places_of(const at::Tensor& x) { return head_rows(x.mutable_data_ptr<float>(), x); }

std::vector<QueryChunk> chunks_of(const Segments& segments, const at::Tensor& output_rows) {
  return output_rows.defined() ? query_chunks(segments, output_rows.const_data_ptr<std::int64_t>(), output_rows.size(0))
                               : query_chunks(segments, nullptr, segments.rows());
}

// By tensor operations, block by block, for devices and types without a kernel.
at::Tensor forward_by_blocks(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Segments& segments) {
  at::Tensor output = at::empty_like(q, at::MemoryFormat::Contiguous);
  for (const QueryBlock& block : query_blocks(segments)) {
    const at::Tensor kb = repeat_heads(heads_first(k, block.first, block.keys), 0, q.size(1));
    const at::Tensor vb = repeat_heads(heads_first(v, block.first, block.keys), 0, q.size(1));
    const at::Tensor p = probabilities(heads_first(q, block.begin, block.count), kb, block.causal, block.count);
    heads_first(output, block.begin, block.count).copy_(at::bmm(p.to(v.scalar_type()), vb));
  }
  return output;
}

void backward_by_blocks(const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const Segments& segments, at::Tensor& dq, at::Tensor& dk, at::Tensor& dv) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  for (const QueryBlock& block : query_blocks(segments)) {
    const at::Tensor qb = heads_first(q, block.begin, block.count);
    const at::Tensor kb = repeat_heads(heads_first(k, block.first, block.keys), 0, q.size(1));
    const at::Tensor vb = repeat_heads(heads_first(v, block.first, block.keys), 0, q.size(1));
    const at::Tensor dyb = heads_first(dy, block.begin, block.count);
    const at::Tensor p = probabilities(qb, kb, block.causal, block.count);
    const at::Tensor dp = at::bmm(dyb, vb.transpose(1, 2)).to(at::kFloat);
    const at::Tensor ds = at::_softmax_backward_data(dp, p, 2, at::kFloat).mul_(scale).to(q.scalar_type());
    heads_first(dv, block.first, block.keys)
        .add_(sum_of_groups(at::bmm(p.to(v.scalar_type()).transpose(1, 2), dyb), v.size(1)));
    heads_first(dq, block.begin, block.count).copy_(at::bmm(ds, kb));
    heads_first(dk, block.first, block.keys).add_(sum_of_groups(at::bmm(ds.transpose(1, 2), qb), k.size(1)));
  }
}

class SegmentAttention : public torch::autograd::Function<SegmentAttention> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const AttentionRows& rows) {
    const AttentionResult result = attention_forward(q, k, v, rows);
    context->save_for_backward({q, k, v, result.output, result.log_sum, result.causal_output, result.causal_log_sum});
    auto kept = c10::make_intrusive<KeptRows>();
    kept->segments = rows.segments;
    kept->tables = rows.tables;
    context->saved_data["rows"] = c10::IValue::make_capsule(std::move(kept));
    return result.output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto capsule = context->saved_data["rows"].toCapsule();
    const auto& kept = static_cast<const KeptRows&>(*capsule);
    AttentionRows rows(kept.segments);
    rows.tables = kept.tables;
    at::Tensor dq = at::empty_like(saved[0], at::MemoryFormat::Contiguous);
    at::Tensor dk = at::empty_like(saved[1], at::MemoryFormat::Contiguous);
    at::Tensor dv = at::empty_like(saved[2], at::MemoryFormat::Contiguous);
    attention_backward(gradients[0], saved[0], saved[1], saved[2], {saved[3], saved[4], {}, saved[5], saved[6]}, rows,
                       {}, dq, dk, dv);
    return {dq, dk, dv, {}};
  }

 private:
  struct KeptRows : torch::CustomClassHolder {
    Segments segments;
    std::shared_ptr<const AttentionTables> tables;
  };
};

// The tables of these rows on q's device, if attention runs there by its kernels; else null.
std::shared_ptr<const AttentionTables> device_tables(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                     const AttentionRows& rows) {
  if (!has_device_attention(q, k, v)) {
    return nullptr;
  }
  if (rows.tables != nullptr) {
    return rows.tables;
  }
  auto made = std::make_shared<AttentionTables>(AttentionTables::of(rows.segments));
  move_together(made->tensors(), q.device());
  return made;
}

std::shared_ptr<const PrefixedRows> prefixed_rows(const AttentionRows& rows, const KeyValuePrefix& prefix,
                                                  const at::Device& device) {
  return rows.prefixed != nullptr && rows.prefixed->length() == prefix.length()
             ? rows.prefixed
             : std::make_shared<const PrefixedRows>(rows.segments, prefix.length(), device);
}

}  // namespace

at::Tensor repeat_heads(const at::Tensor& x, std::int64_t dim, std::int64_t heads) {
  TORCH_INTERNAL_ASSERT(heads % x.size(dim) == 0);
  return heads == x.size(dim) ? x : x.repeat_interleave(heads / x.size(dim), dim);
}

AttentionResult attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const AttentionRows& rows, const at::Tensor& output_rows,
                                  const KeyValuePrefix& prefix) {
  at::NoGradGuard no_grad;
  if (prefix.defined()) {
    const auto with_prefix = prefixed_rows(rows, prefix, q.device());
    return attention_forward(with_prefix->extend(q), with_prefix->extend(k, prefix.key),
                             with_prefix->extend(v, prefix.value), with_prefix->rows(),
                             with_prefix->queries(output_rows));
  }
  if (const auto tables = device_tables(q, k, v, rows)) {
    return device_attention_forward(q, k, v, *tables, output_rows);
  }
  const Segments& segments = rows.segments;
  if (!has_kernel(q) || !has_kernel(k) || !has_kernel(v)) {
    const at::Tensor all = forward_by_blocks(q, k, v, segments);
    return {output_rows.defined() ? all.index_select(0, output_rows) : all, {}, {}, {}, {}};
  }
  const auto count = output_rows.defined() ? output_rows.size(0) : q.size(0);
  AttentionResult result;
  result.output = at::empty({count, q.size(1), q.size(2)}, q.options());
  result.log_sum = at::empty({count, q.size(1)}, q.options());
  kernels::attend_segments({q.size(1), k.size(1), q.size(2), segments.count()}, chunks_of(segments, output_rows),
                           values_of(q), values_of(k), values_of(v), result.output.mutable_data_ptr<float>(),
                           result.log_sum.mutable_data_ptr<float>());
  return result;
}

void attention_backward(const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const AttentionResult& result, const AttentionRows& rows, const at::Tensor& output_rows,
                        at::Tensor dq, at::Tensor dk, at::Tensor dv) {
  at::NoGradGuard no_grad;
  if (const auto tables = device_tables(q, k, v, rows)) {
    device_attention_backward(dy, q, k, v, result, *tables, output_rows, dq, dk, dv);
    return;
  }
  const Segments& segments = rows.segments;
  dk.zero_();
  dv.zero_();
  if (!result.log_sum.defined()) {
    at::Tensor all = dy;
    if (output_rows.defined()) {
      all = at::zeros(q.sizes(), dy.options()).index_copy_(0, output_rows, dy);
    }
    backward_by_blocks(all, q, k, v, segments, dq, dk, dv);
    return;
  }
  if (output_rows.defined()) {
    dq.zero_();
  }
  const at::Tensor gradient = dy.contiguous();
  kernels::attend_segments_backward(
      {q.size(1), k.size(1), q.size(2), segments.count()}, chunks_of(segments, output_rows), values_of(q), values_of(k),
      values_of(v), gradient.const_data_ptr<float>(), result.output.const_data_ptr<float>(),
      result.log_sum.const_data_ptr<float>(), places_of(dq), places_of(dk), places_of(dv));
}

KeyValuePrefix attention_backward(const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const AttentionResult& result, const AttentionRows& rows,
                                  const at::Tensor& output_rows, const KeyValuePrefix& prefix, at::Tensor dq,
                                  at::Tensor dk, at::Tensor dv) {
  at::NoGradGuard no_grad;
  const auto with_prefix = prefixed_rows(rows, prefix, q.device());
  const at::Tensor keys = with_prefix->extend(k, prefix.key);
  const at::Tensor values = with_prefix->extend(v, prefix.value);
  const at::Tensor queries = with_prefix->extend(q);
  at::Tensor all_dq = at::empty_like(queries);
  at::Tensor all_dk = at::empty_like(keys);
  at::Tensor all_dv = at::empty_like(values);
  attention_backward(dy, queries, keys, values, result, with_prefix->rows(), with_prefix->queries(output_rows), all_dq,
                     all_dk, all_dv);
  dq.copy_(with_prefix->own_rows(all_dq));
  dk.copy_(with_prefix->own_rows(all_dk));
  dv.copy_(with_prefix->own_rows(all_dv));
  return {with_prefix->front_rows(all_dk, prefix.key), with_prefix->front_rows(all_dv, prefix.value)};
}

at::Tensor prefix_lm_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         const Segments& segments, const KeyValuePrefix& prefix) {
  std::vector<at::Tensor> outputs;
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    const auto begin = segments.offsets[i];
    const auto length = segments.length(i);
    const auto both_ways = segments.bidirectional[i];
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
    keys = repeat_heads(keys, 0, q.size(1));
    values = repeat_heads(values, 0, q.size(1));
    const at::Tensor queries = heads_first(q, begin, length);
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
    const at::Tensor scores = at::bmm(queries * scale, keys.transpose(1, 2)).to(at::kFloat);
    at::Tensor hidden = at::ones({length, length}, q.options().dtype(at::kBool)).triu(1);
    hidden.narrow(1, 0, both_ways).narrow(0, 0, both_ways).fill_(false);
    hidden = at::constant_pad_nd(hidden, {extra, 0}, 0);
    const at::Tensor p = at::softmax(scores.masked_fill(hidden, -std::numeric_limits<float>::infinity()), 2);
    outputs.push_back(at::bmm(p.to(values.scalar_type()), values).transpose(0, 1));
  }
  return at::cat(outputs, 0);
}

at::Tensor prefix_lm_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionRows& rows,
                               const KeyValuePrefix& prefix) {
  TORCH_INTERNAL_ASSERT(q.dim() == 3 && q.size(0) == rows.segments.rows());
  if (prefix.defined() && at::GradMode::is_enabled()) {
    return prefix_lm_attention_reference(q, k, v, rows.segments, prefix);
  }
  if (prefix.defined()) {
    return attention_forward(q, k, v, rows, {}, prefix).output;
  }
  return SegmentAttention::apply(q, k, v, rows);
}

}  // namespace moelora::nn
