// LibTorch's attention kernels of variable length, which exist on CUDA only, from plain operators. They check what
// CUDA's check and leave undefined (NaN) what CUDA's leave undefined. Each counts as one operator.

#include <ATen/ATen.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "support/pretend_device/fallback.h"
#include "support/pretend_device/pretend_device.h"

namespace moelora::testing::pretend {
namespace {

using at::Tensor;
using std::optional;

constexpr std::int64_t kAlignedQueries = 32;  // logsumexp's last axis is padded to a multiple of this
constexpr double kInfinity = std::numeric_limits<double>::infinity();

enum class Mask : std::int64_t { none = 0, causal_top_left = 1, causal_bottom_right = 2 };

/// One sequence: views of all heads, [heads, queries or keys, width] in fp32.
struct Sequence {
  std::int64_t batch, query_begin, query_end, key_begin, key_end;
  Tensor queries(const Tensor& x) const { return part(x, query_begin, query_end); }
  Tensor keys(const Tensor& x) const { return part(x, key_begin, key_end); }
  std::int64_t query_count() const { return query_end - query_begin; }
  Tensor part(const Tensor& x, std::int64_t begin, std::int64_t end) const {  // x [batches, rows, heads, width]
    return x.select(0, batch).slice(0, begin, end).transpose(0, 1).to(at::kFloat);
  }
};

std::vector<Sequence> sequences(const Tensor& query, const Tensor& key, const optional<Tensor>& query_starts,
                                const optional<Tensor>& key_starts) {
  std::vector<Sequence> all;
  if (!query_starts) {
    for (std::int64_t b = 0; b < query.size(0); ++b) all.push_back({b, 0, query.size(1), 0, key.size(1)});
    return all;
  }
  const Tensor from = on_host(*query_starts), of = on_host(*key_starts);
  const auto* q = from.const_data_ptr<std::int32_t>();
  const auto* k = of.const_data_ptr<std::int32_t>();
  for (std::int64_t s = 0; s + 1 < from.numel(); ++s) all.push_back({0, q[s], q[s + 1], k[s], k[s + 1]});
  return all;
}

void check_starts(const Tensor& query, const optional<Tensor>& query_starts, const optional<Tensor>& key_starts) {
  TORCH_CHECK(query_starts.has_value() == key_starts.has_value(), "lengths of queries and keys, or neither");
  if (query_starts) {
    for (const Tensor* starts : {&*query_starts, &*key_starts}) {
      TORCH_CHECK(starts->device().is_privateuseone() && starts->scalar_type() == at::kInt && starts->dim() == 1 &&
                      starts->is_contiguous(),
                  "cumulative lengths must be int32 [sequences + 1] on the device, found ", starts->toString(), " ",
                  starts->sizes(), " on ", starts->device());
    }
    TORCH_CHECK(query_starts->size(0) == key_starts->size(0), "as many sequences of queries as of keys");
    TORCH_CHECK(query.size(0) == 1, "cumulative lengths need a batch of 1");
  }
}

void check_rows(std::initializer_list<const Tensor*> all) {
  for (const Tensor* x : all) {
    TORCH_CHECK(x->device().is_privateuseone() && x->dim() == 4 && x->stride(-1) == 1,
                "attention takes [batch, rows, heads, width] on the device with adjacent elements, found ", x->sizes(),
                " with strides ", x->strides(), " on ", x->device());
  }
}

/// Scores of one sequence, [heads, queries, keys]; -inf where a key is not seen.
Tensor scores(const Tensor& q, const Tensor& k, double scale, Mask mask) {
  Tensor s = at::matmul(q, k.transpose(1, 2)) * scale;
  if (mask != Mask::none) {
    const std::int64_t shift = mask == Mask::causal_bottom_right ? k.size(1) - q.size(1) : 0;
    s.masked_fill_(at::ones({q.size(1), k.size(1)}, at::kBool).triu_(shift + 1), -kInfinity);
  }
  return s;
}

double scale_of(const Tensor& query, optional<double> scale) {
  return scale.value_or(1.0 / std::sqrt(static_cast<double>(query.size(-1))));
}

std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt> efficient_forward(
    const Tensor& query, const Tensor& key, const Tensor& value, const optional<Tensor>& bias,
    const optional<Tensor>& query_starts, const optional<Tensor>& key_starts, optional<std::int64_t> most_queries,
    optional<std::int64_t> most_keys, double dropout, std::int64_t mask, bool wants_logsumexp, optional<double> scale,
    const optional<Tensor>& key_lengths, optional<std::int64_t> window) {
  TORCH_CHECK(!bias && dropout == 0.0 && !key_lengths && !window, "the pretend device has no such attention");
  check_rows({&query, &key, &value});
  check_starts(query, query_starts, key_starts);
  TORCH_CHECK(!query_starts || most_queries, "cumulative lengths need the largest length of queries");
  TORCH_CHECK(query.size(2) == key.size(2) && query.scalar_type() == key.scalar_type(), "queries and keys differ");
  const Launch launch("_efficient_attention_forward");
  const std::int64_t longest = query_starts ? *most_queries : query.size(1);
  const auto all = sequences(query, key, query_starts, key_starts);
  const Tensor output = at::empty({query.size(0), query.size(1), query.size(2), value.size(3)}, query.options());
  const std::int64_t padded = (longest + kAlignedQueries - 1) / kAlignedQueries * kAlignedQueries;
  const Tensor logsumexp =
      at::empty({static_cast<std::int64_t>(all.size()), query.size(2), wants_logsumexp ? padded : 0},
                query.options().dtype(at::kFloat));
  const Tensor q = on_host(query), k = on_host(key), v = on_host(value), out = on_host(output),
               sums = on_host(logsumexp);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Sequence& one = all[i];
    TORCH_CHECK(one.query_count() <= longest, "a sequence has more queries than the largest length says");
    const Tensor s = scores(one.queries(q), one.keys(k), scale_of(query, scale), static_cast<Mask>(mask));
    const Tensor sum = s.logsumexp(2);  // -inf where no key is seen: then the weights are NaN
    const Tensor weights = (s - sum.unsqueeze(2)).exp();
    out.select(0, one.batch)
        .slice(0, one.query_begin, one.query_end)
        .copy_(at::matmul(weights, one.keys(v)).transpose(0, 1));
    if (wants_logsumexp) {
      sums[static_cast<std::int64_t>(i)].fill_(kInfinity).slice(1, 0, one.query_count()).copy_(sum);
    }
  }
  const auto none = query.options().dtype(at::kLong);
  return {output,
          logsumexp,
          at::empty({}, none),
          at::empty({}, none),
          longest,
          query_starts ? most_keys.value_or(0) : key.size(1)};
}

/// Adds one sequence's gradients to dq, dk and dv (host views of what is returned).
void backward_of(const Sequence& one, const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v,
                 const Tensor& out, const Tensor& sum, double scale, Mask mask, const Tensor& dq, const Tensor& dk,
                 const Tensor& dv) {
  const Tensor queries = one.queries(q), keys = one.keys(k), values = one.keys(v), slope = one.queries(dy);
  const Tensor weights = (scores(queries, keys, scale, mask) - sum.unsqueeze(2)).exp();
  const Tensor along = (slope * one.queries(out)).sum(2, true);
  const Tensor ds = weights * (at::matmul(slope, values.transpose(1, 2)) - along) * scale;
  const auto put = [&](const Tensor& to, std::int64_t begin, std::int64_t end, const Tensor& gradient) {
    to.select(0, one.batch).slice(0, begin, end).copy_(gradient.transpose(0, 1));
  };
  put(dq, one.query_begin, one.query_end, at::matmul(ds, keys));
  put(dk, one.key_begin, one.key_end, at::matmul(ds.transpose(1, 2), queries));
  put(dv, one.key_begin, one.key_end, at::matmul(weights.transpose(1, 2), slope));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> efficient_backward(
    const Tensor& slope, const Tensor& query, const Tensor& key, const Tensor& value, const optional<Tensor>& bias,
    const Tensor& output, const optional<Tensor>& query_starts, const optional<Tensor>& key_starts,
    std::int64_t most_queries, std::int64_t most_keys, const Tensor& logsumexp, double dropout, const Tensor&,
    const Tensor&, std::int64_t mask, bool, optional<double> scale, optional<std::int64_t>,
    optional<std::int64_t> window, bool shared) {
  TORCH_CHECK(!bias && dropout == 0.0 && !window, "the pretend device has no such attention");
  check_rows({&slope, &query, &key, &value, &output});
  check_starts(query, query_starts, key_starts);
  if (query_starts) {
    TORCH_CHECK(most_queries > 0 && most_queries <= query.size(1), "invalid largest length of queries ", most_queries);
    TORCH_CHECK(most_keys > 0 && most_keys <= key.size(1), "invalid largest length of keys ", most_keys);
  }
  TORCH_CHECK(logsumexp.device().is_privateuseone() && logsumexp.dim() == 3 && logsumexp.is_contiguous() &&
                  logsumexp.size(2) % kAlignedQueries == 0 && logsumexp.size(2) > 0,
              "logsumexp must be that of forward, found ", logsumexp.sizes());
  const Launch launch("_efficient_attention_backward");
  Tensor dq, dk, dv;
  if (shared) {
    TORCH_CHECK(query.sizes() == key.sizes() && value.sizes() == key.sizes(), "shared storage needs equal shapes");
    const Tensor all = at::empty({query.size(0), query.size(1), 3, query.size(2), query.size(3)}, query.options());
    dq = all.select(2, 0);
    dk = all.select(2, 1);
    dv = all.select(2, 2);
  } else {
    dq = at::empty(query.sizes(), query.options());
    dk = at::empty(key.sizes(), key.options());
    dv = at::empty(value.sizes(), value.options());
  }
  const Tensor dy = on_host(slope), q = on_host(query), k = on_host(key), v = on_host(value), out = on_host(output),
               sums = on_host(logsumexp);
  const auto all = sequences(query, key, query_starts, key_starts);
  TORCH_CHECK(logsumexp.size(0) == static_cast<std::int64_t>(all.size()), "logsumexp of other sequences");
  for (std::size_t i = 0; i < all.size(); ++i) {
    TORCH_CHECK(
        !query_starts || (all[i].query_count() <= most_queries && all[i].key_end - all[i].key_begin <= most_keys),
        "a sequence is longer than the largest length says");
    backward_of(all[i], dy, q, k, v, out, sums[static_cast<std::int64_t>(i)].slice(1, 0, all[i].query_count()),
                scale_of(query, scale), static_cast<Mask>(mask), on_host(dq), on_host(dk), on_host(dv));
  }
  return {dq, dk, dv, Tensor()};
}

// Flash attention of variable length: q [rows, heads, width], a mask aligned at the bottom right, fp16 and bf16.
void check_flash(const Tensor& query, const optional<Tensor>& query_starts, const optional<Tensor>& key_starts) {
  TORCH_CHECK(query_starts && key_starts, "the pretend device has flash attention of variable length only");
  TORCH_CHECK(query.scalar_type() == at::kHalf || query.scalar_type() == at::kBFloat16,
              "flash attention takes fp16 and bf16");
  TORCH_CHECK(query.dim() == 3 && query.size(2) % 8 == 0 && query.size(2) <= 256,
              "flash attention takes [rows, heads, width] with widths of up to 256 in steps of 8, found ",
              query.sizes());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> flash_forward(
    const Tensor& query, const Tensor& key, const Tensor& value, const optional<Tensor>& query_starts,
    const optional<Tensor>& key_starts, std::int64_t most_queries, std::int64_t most_keys, double dropout, bool causal,
    bool, optional<double> scale, optional<std::int64_t>, optional<std::int64_t>, const optional<Tensor>&,
    const optional<Tensor>&) {
  check_flash(query, query_starts, key_starts);
  const Launch launch("_flash_attention_forward");
  auto [output, sums, seed, offset, unused_q, unused_k] =
      efficient_forward(query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0), {}, query_starts, key_starts,
                        most_queries, most_keys, dropout, causal ? 2 : 0, true, scale, {}, {});
  return {output.squeeze(0), sums, seed, offset, at::empty({0}, query.options())};
}

std::tuple<Tensor, Tensor, Tensor> flash_backward(const Tensor& slope, const Tensor& query, const Tensor& key,
                                                  const Tensor& value, const Tensor& output, const Tensor& logsumexp,
                                                  const Tensor& query_starts, const Tensor& key_starts,
                                                  std::int64_t most_queries, std::int64_t most_keys, double dropout,
                                                  bool causal, const Tensor& seed, const Tensor& offset,
                                                  optional<double> scale, optional<std::int64_t>,
                                                  optional<std::int64_t>) {
  check_flash(query, query_starts, key_starts);
  TORCH_CHECK(at::globalContext().deterministicAlgorithms(), "dq would be added up in any order");
  const Launch launch("_flash_attention_backward");
  const Tensor q = query.unsqueeze(0), k = key.unsqueeze(0);
  for (const Sequence& one : sequences(q, k, query_starts, key_starts)) {
    TORCH_CHECK(one.query_count() > 0 || one.key_begin == one.key_end,
                "flash attention's backward reads outside of a sequence with keys and no queries");
  }
  const auto [dq, dk, dv, none] = efficient_backward(
      slope.unsqueeze(0), q, k, value.unsqueeze(0), {}, output.unsqueeze(0), query_starts, key_starts, most_queries,
      most_keys, logsumexp, dropout, seed, offset, causal ? 2 : 0, false, scale, {}, {}, false);
  return {dq.squeeze(0), dk.squeeze(0), dv.squeeze(0)};
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_flash_attention_forward", flash_forward);
  m.impl("_flash_attention_backward", flash_backward);
  m.impl("_efficient_attention_forward", efficient_forward);
  m.impl("_efficient_attention_backward", efficient_backward);
}

}  // namespace moelora::testing::pretend
