#include "nn/device_attention.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <array>
#include <atomic>
#include <cmath>

#include "moelora/nn/device.h"
#include "nn/kernels/cuda/attention_gradients.h"
#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn {
namespace {

using kernels::HeadGradients;

constexpr std::int64_t kNoMask = 0, kCausalFromBottomRight = 2;  // sdp::CustomMaskType
constexpr std::int64_t kAlignment = 16;                          // bytes: of a head's first element

// One call: which queries see which keys.
struct Call {
  const at::Tensor& query_starts;  // [n + 1] int32
  const at::Tensor& key_starts;    // [n + 1] int32
  std::int64_t longest_queries;
  std::int64_t longest_keys;
  bool causal;
  bool queries_everywhere;  // where there are keys

  std::int64_t mask() const { return causal ? kCausalFromBottomRight : kNoMask; }
};

struct CallResult {
  at::Tensor output, log_sum;
};

double scale_of(const at::Tensor& q) { return 1.0 / std::sqrt(static_cast<double>(q.size(2))); }

std::atomic<AttentionKernels> chosen_kernels{AttentionKernels::automatic};

bool has_flash(const at::Device& device) {
  static std::array<std::atomic<int>, 64> known{};  // 0: not asked yet, 1: no, 2: yes
  auto& of_device = known[static_cast<std::size_t>(device.has_index() ? device.index() : 0) % known.size()];
  if (of_device == 0) {
    of_device = device.is_cuda() && device_info(device).has_flash_attention() ? 2 : 1;
  }
  return of_device == 2;
}

// The one place where kernels are chosen, the same for forward and backward. Flash attention's backward reads in front
// of the first query of a sequence that has keys and none.
bool takes_flash(const at::Tensor& q, const Call& call) {
  const AttentionKernels kernels = chosen_kernels;
  if (kernels == AttentionKernels::memory_efficient || q.scalar_type() == at::kFloat || q.size(2) > 256 ||
      !call.queries_everywhere) {
    return false;
  }
  return kernels == AttentionKernels::flash || has_flash(q.device());
}

// LibTorch's flash attention adds up dq in the order in which blocks finish unless it is told not to.
class InFixedOrder {
 public:
  InFixedOrder() {
    at::globalContext().setDeterministicAlgorithms(true, false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  ~InFixedOrder() {
    at::globalContext().setDeterministicAlgorithms(before_, warn_only_);
    at::globalContext().setDeterministicFillUninitializedMemory(fill_);
  }
  InFixedOrder(const InFixedOrder&) = delete;
  InFixedOrder& operator=(const InFixedOrder&) = delete;

 private:
  bool before_ = at::globalContext().deterministicAlgorithms();
  bool warn_only_ = at::globalContext().deterministicAlgorithmsWarnOnly();
  bool fill_ = at::globalContext().deterministicFillUninitializedMemory();
};

// Scores and sums in fp32 whatever the type, so that fp16 cannot overflow in them.
CallResult call_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call& call) {
  if (takes_flash(q, call)) {
    auto [output, log_sum, seed, offset, mask] = at::_flash_attention_forward(
        q, k, v, call.query_starts, call.key_starts, call.longest_queries, call.longest_keys, /*dropout_p=*/0.0,
        call.causal, /*return_debug_mask=*/false, scale_of(q));
    return {output, log_sum};
  }
  auto [output, log_sum, seed, offset, longest_queries, longest_keys] = at::_efficient_attention_forward(
      q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), {}, call.query_starts, call.key_starts, call.longest_queries,
      call.longest_keys, /*dropout_p=*/0.0, call.mask(), /*compute_log_sumexp=*/true, scale_of(q));
  return {output.squeeze(0), log_sum};
}

// In a fixed order: of the memory-efficient kernels one split of the keys. Seed and offset are not read without
// dropout, but must be tensors.
HeadGradients call_backward(const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const CallResult& result, const Call& call) {
  if (takes_flash(q, call)) {
    const InFixedOrder in_fixed_order;
    auto [dq, dk, dv] = at::_flash_attention_backward(
        dy, q, k, v, result.output, result.log_sum, call.query_starts, call.key_starts, call.longest_queries,
        call.longest_keys, /*dropout_p=*/0.0, call.causal, result.log_sum, result.log_sum, scale_of(q));
    return {dq.contiguous(), dk.contiguous(), dv.contiguous()};
  }
  auto [dq, dk, dv, dbias] = at::_efficient_attention_backward(
      dy.unsqueeze(0), q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), {}, result.output.unsqueeze(0),
      call.query_starts, call.key_starts, call.longest_queries, call.longest_keys, result.log_sum, /*dropout_p=*/0.0,
      result.log_sum, result.log_sum, call.mask(), /*bias_requires_grad=*/false, scale_of(q), /*num_splits_key=*/1);
  return {dq.squeeze(0), dk.squeeze(0), dv.squeeze(0)};
}

// Which calls a batch needs.
struct Calls {
  const AttentionTables& tables;
  bool over_parts;   // there are bidirectional rows
  bool over_causal;  // there are causal rows
  bool gathered() const { return over_parts && over_causal; }

  Calls(const AttentionTables& given, std::int64_t rows)
      : tables(given), over_parts(given.causal_rows.size(0) < rows), over_causal(given.causal_rows.size(0) > 0) {}
  Call parts() const {
    return {tables.parts,        tables.parts,
            tables.longest_part, tables.longest_part,
            /*causal=*/false,    /*queries_everywhere=*/true};
  }
  Call causal() const {
    return {tables.causal_offsets, tables.segments,           tables.longest_causal, tables.longest_segment,
            /*causal=*/true,       tables.shortest_causal > 0};
  }
  /// The causal ones of some rows.
  at::Tensor gather(const at::Tensor& x) const { return gathered() ? x.index_select(0, tables.causal_rows) : x; }
};

bool has_operators(at::DeviceType type) {
  const auto key = c10::computeDispatchKey(std::nullopt, std::nullopt, at::Device(type));
  static const auto forward = c10::Dispatcher::singleton().findSchemaOrThrow("aten::_efficient_attention_forward", "");
  static const auto backward =
      c10::Dispatcher::singleton().findSchemaOrThrow("aten::_efficient_attention_backward", "");
  return forward.hasKernelForDispatchKey(key) && backward.hasKernelForDispatchKey(key);
}

at::Tensor sum_of_shared(const at::Tensor& x, std::int64_t kv_heads) {
  return x.size(1) == kv_heads ? x : x.unflatten(1, {kv_heads, x.size(1) / kv_heads}).sum(2);
}

// What kernels::join_gradients does, by tensor operations.
void join_by_operations(const HeadGradients& parts, const HeadGradients& causal, const Calls& calls, at::Tensor dq,
                        at::Tensor dk, at::Tensor dv) {
  const auto rows = calls.tables.causal_rows;
  if (!calls.gathered()) {
    const HeadGradients& only = calls.over_parts ? parts : causal;
    dq.copy_(only.dq);
    dk.copy_(sum_of_shared(only.dk, dk.size(1)));
    dv.copy_(sum_of_shared(only.dv, dv.size(1)));
    return;
  }
  dq.copy_(parts.dq.index_copy(0, rows, causal.dq));
  dk.copy_(sum_of_shared(parts.dk.index_fill(0, rows, 0.0).add_(causal.dk), dk.size(1)));
  dv.copy_(sum_of_shared(parts.dv.index_fill(0, rows, 0.0).add_(causal.dv), dv.size(1)));
}

}  // namespace

void choose_attention_kernels(AttentionKernels kernels) { chosen_kernels = kernels; }

bool has_device_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (q.is_cpu() || q.size(0) == 0 || !has_operators(q.device().type())) {
    return false;
  }
  const auto type = q.scalar_type();
  if (type != at::kFloat && type != at::kHalf && type != at::kBFloat16) {
    return false;
  }
  const auto unit = kAlignment / static_cast<std::int64_t>(q.element_size());
  for (const at::Tensor* x : {&q, &k, &v}) {
    if (x->stride(2) != 1 || x->stride(0) % unit != 0 || x->stride(1) % unit != 0 || x->storage_offset() % unit != 0 ||
        x->size(2) % unit != 0) {
      return false;
    }
  }
  return true;
}

AttentionResult device_attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         const AttentionTables& tables, const at::Tensor& output_rows) {
  const Calls calls(tables, q.size(0));
  const at::Tensor keys = repeat_heads(k, 1, q.size(1));
  const at::Tensor values = repeat_heads(v, 1, q.size(1));
  AttentionResult result;
  at::Tensor all;
  if (calls.over_parts) {
    const CallResult parts = call_forward(q, keys, values, calls.parts());
    all = parts.output;
    result.log_sum = parts.log_sum;
  }
  if (calls.over_causal) {
    const CallResult causal = call_forward(calls.gather(q), keys, values, calls.causal());
    result.causal_output = causal.output;
    result.causal_log_sum = causal.log_sum;
    all = calls.gathered() ? all.index_copy_(0, tables.causal_rows, causal.output) : causal.output;
  }
  result.output = all;
  if (output_rows.defined()) {
    result.all_output = all;
    result.output = all.index_select(0, output_rows);
  }
  return result;
}

void device_attention_backward(const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const AttentionResult& result, const AttentionTables& tables,
                               const at::Tensor& output_rows, const at::Tensor& dq, const at::Tensor& dk,
                               const at::Tensor& dv) {
  const Calls calls(tables, q.size(0));
  const at::Tensor keys = repeat_heads(k, 1, q.size(1));
  const at::Tensor values = repeat_heads(v, 1, q.size(1));
  const at::Tensor gradient =
      output_rows.defined() ? at::zeros(q.sizes(), dy.options()).index_copy_(0, output_rows, dy) : dy.contiguous();
  const at::Tensor& output = output_rows.defined() ? result.all_output : result.output;
  HeadGradients parts, causal;
  if (calls.over_parts) {
    parts = call_backward(gradient, q, keys, values, {output, result.log_sum}, calls.parts());
  }
  if (calls.over_causal) {
    causal = call_backward(calls.gather(gradient), calls.gather(q), keys, values,
                           {result.causal_output, result.causal_log_sum}, calls.causal());
  }
  if (kernels::has_device_kernels(dq)) {
    kernels::join_gradients(parts, causal, tables.causal_of_row, dq, dk, dv);
  } else {
    join_by_operations(parts, causal, calls, dq, dk, dv);
  }
}

}  // namespace moelora::nn
