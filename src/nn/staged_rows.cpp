#include "nn/staged_rows.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <deque>
#include <new>
#include <utility>

#include "moelora/nn/few_rows.h"
#include "nn/cached_heads.h"
#include "nn/few_rows_outputs.h"
#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/rms_norm_row.h"
#include "nn/turned_head.h"

namespace moelora::nn {
namespace {

// Elements that one thread goes through in less time than two take to meet.
constexpr std::int64_t kShort = 4096;

std::int64_t rows_at_once(std::int64_t width) {
  return std::max<std::int64_t>(1, kShort / std::max<std::int64_t>(width, 1));
}

bool is_contiguous_fp32(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous();
}

}  // namespace

// Blocks of memory, which serve again when no Rows is left of them: loops run in the order in which they were recorded,
// so that one that writes where another has read comes later.
struct StagedRows::Memory {
  struct Free {
    void operator()(float* data) const { ::operator delete (data, std::align_val_t{64}); }
  };
  struct Block {
    explicit Block(std::int64_t of_size)
        : size(of_size),
          data(static_cast<float*>(
              ::operator new (static_cast<std::size_t>(of_size) * sizeof(float), std::align_val_t{64}))) {}
    const std::int64_t size;
    const std::unique_ptr<float, Free> data;
    bool used = true;
  };

  std::deque<Block> blocks;

  Block& take(std::int64_t size) {
    for (Block& block : blocks) {
      if (!block.used && block.size == size) {
        block.used = true;
        return block;
      }
    }
    return blocks.emplace_back(size);
  }
};

std::shared_ptr<StagedRows::Memory> StagedRows::make_memory() { return std::make_shared<Memory>(); }

StagedRows::Rows StagedRows::make(std::int64_t rows, std::int64_t width) {
  Memory::Block& block = memory_->take(rows * width);
  float* data = block.data.get();
  return {data, rows, width, width,
          std::shared_ptr<void>(data, [memory = memory_, &block](void*) { block.used = false; })};
}

bool StagedRows::takes(const LinearImpl& linear, std::int64_t rows) {
  return linear.active_delta() == nullptr && is_contiguous_fp32(linear.weight) &&
         (!linear.bias.defined() || is_contiguous_fp32(linear.bias)) && supports_few_rows(rows, linear.weight);
}

bool StagedRows::takes(const RmsNormImpl& norm) { return is_contiguous_fp32(norm.weight); }

StagedRows::Rows StagedRows::input(const at::Tensor& x) {
  TORCH_INTERNAL_ASSERT(x.dim() == 2 && x.is_cpu() && x.scalar_type() == at::kFloat);
  kept_.push_back(x.contiguous());
  // Never written to: an operation in place has another operand that it writes to.
  return {const_cast<float*>(kept_.back().const_data_ptr<float>()), x.size(0), x.size(1), x.size(1), nullptr};
}

// The norm of each row of norm's width, of which x has one or several beside each other; with `added` x is summed
// first.
StagedRows::Rows StagedRows::normalise(const RmsNormImpl& norm, const Rows& x, const Rows& added) {
  const auto width = norm.weight.size(0);
  TORCH_INTERNAL_ASSERT(x.width % width == 0 && (x.width == width || x.stride == x.width));
  Rows y = make(x.rows, x.width);
  const auto loop = [width, sum = x.data, stride = x.width == width ? x.stride : width, residual = added.data,
                     residual_stride = added.stride, weight = norm.weight.const_data_ptr<float>(),
                     epsilon = static_cast<float>(norm.epsilon()), to = y.data](std::int64_t begin, std::int64_t end) {
    for (auto row = begin; row < end; ++row) {
      rms_norm_row(sum + row * stride, residual != nullptr ? residual + row * residual_stride : nullptr, weight,
                   epsilon, to + row * width, width);
    }
  };
  stages_.add(x.rows * (x.width / width), rows_at_once(width), loop);
  return y;
}

StagedRows::Rows StagedRows::rms_norm(const RmsNormImpl& norm, const Rows& x) { return normalise(norm, x, {}); }

StagedRows::Rows StagedRows::add_then_rms_norm(const RmsNormImpl& norm, const Rows& x, const Rows& residual) {
  TORCH_INTERNAL_ASSERT(x.memory != nullptr && norm.weight.size(0) == x.width && residual.width == x.width &&
                        residual.rows == x.rows);
  return normalise(norm, x, residual);
}

std::vector<StagedRows::Rows> StagedRows::products(const std::vector<LinearImpl*>& linears, const Rows& x) {
  TORCH_INTERNAL_ASSERT(x.stride == x.width);
  std::vector<Rows> outputs;
  FewRowsOutputs all;
  for (const LinearImpl* linear : linears) {
    TORCH_INTERNAL_ASSERT(linear->weight.size(1) == x.width && takes(*linear, x.rows));
    outputs.push_back(make(x.rows, linear->weight.size(0)));
    all.add(few_rows_call(x.data, x.rows, {linear->weight, linear->bias}, outputs.back().data));
  }
  all.add_to(stages_);
  return outputs;
}

StagedRows::Rows StagedRows::swiglu(const Rows& gate, const Rows& up) {
  TORCH_INTERNAL_ASSERT(gate.width == up.width && gate.rows == up.rows);
  Rows y = make(gate.rows, gate.width);
  const auto loop = [gate = gate.data, gate_stride = gate.stride, up = up.data, up_stride = up.stride, to = y.data,
                     width = gate.width](std::int64_t begin, std::int64_t end) {
    for (auto row = begin; row < end; ++row) {
      kernels::cpu_kernels().swiglu_row(gate + row * gate_stride, up + row * up_stride, to + row * width, width);
    }
  };
  stages_.add(gate.rows, rows_at_once(gate.width), loop);
  return y;
}

StagedRows::Rows StagedRows::attention(const Rows& q, const Rows& k, const Rows& v, const CachedSequences& cached,
                                       const Rotary& rotary) {
  const auto d = cached.keys.size(3);
  const auto heads = q.width / d;
  auto all = std::make_shared<const CachedHeads<float>>(cached, heads);
  TORCH_INTERNAL_ASSERT(all->rows() == q.rows && q.width == heads * d && k.width == all->kv_heads() * d &&
                        v.width == k.width && rotary.rotary_dim() <= d && rotary.tables.cos.size(0) == q.rows &&
                        is_contiguous_fp32(rotary.tables.cos) && is_contiguous_fp32(rotary.tables.sin));
  kept_.insert(kept_.end(), {rotary.tables.cos, rotary.tables.sin});
  const TurnedHead turned(rotary, d);
  const auto append = [=, key = k.data, key_stride = k.stride, value = v.data, value_stride = v.stride](
                          std::int64_t begin, std::int64_t end) {
    for (auto task = begin; task < end; ++task) {
      const auto row = task / all->kv_heads();
      const auto head = task % all->kv_heads();
      turned(row, key + row * key_stride + head * d, all->key(row, head));
      std::copy_n(value + row * value_stride + head * d, d, all->value(row, head));
    }
  };
  stages_.add(q.rows * all->kv_heads(), rows_at_once(2 * d), append);
  Rows y = make(q.rows, q.width);
  const auto attend = [=, query = q.data, query_stride = q.stride, to = y.data](std::int64_t begin, std::int64_t end) {
    std::vector<float> turned_query(d), scratch(all->scratch_size());
    for (auto task = begin; task < end; ++task) {
      const auto row = task / heads;
      const auto head = task % heads;
      turned(row, query + row * query_stride + head * d, turned_query.data());
      all->attend(row, head, turned_query.data(), scratch.data(), to + task * d);
    }
  };
  stages_.add(q.rows * heads, rows_at_once(all->longest() * d), attend);
  return y;
}

at::Tensor StagedRows::compute(const Rows& result) {
  const std::vector<at::Tensor> kept = std::exchange(kept_, {});
  stages_.run();
  at::Tensor copy = at::empty({result.rows, result.width}, at::TensorOptions(at::kFloat));
  for (std::int64_t row = 0; row < result.rows; ++row) {
    std::copy_n(result.data + row * result.stride, result.width, copy.mutable_data_ptr<float>() + row * result.width);
  }
  return copy;
}

}  // namespace moelora::nn
