#include "nn/kernels/cuda/low_rank.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "nn/kernels/cuda/code/low_rank_gradients.cuh"
#include "nn/kernels/cuda/code/segment_sum.cuh"
#include "nn/kernels/cuda/packs.h"

namespace moelora::nn::kernels {
namespace {

// Blocks that keep any card of today busy: two for each of a V100's 80 processors. A constant, so that sums have the
// same order on every card.
constexpr std::int64_t kBusyBlocks = 160;

std::int64_t tiles_of(std::int64_t rank) { return blocks_for(rank, device::kEntries); }

device::Factor factor(const at::Tensor& values, std::int64_t width, std::int64_t rank) {
  return {elements<float>(values), width, static_cast<device::int32>(rank), in_packs({values.size(1)}, {&values})};
}

// values [rows, r], or [parts, rows, r]
device::Inner inner(const at::Tensor& values) {
  const auto parts = values.dim() == 3 ? values.size(0) : 1;
  return {elements<float>(values), values.size(-2) * values.size(-1), static_cast<device::int32>(parts),
          static_cast<device::int32>(values.size(-1))};
}

device::EntryWeights entry_weights(const DeviceLowRank& call) {
  const auto scaling = static_cast<float>(call.scaling);
  const auto rank = static_cast<device::int32>(call.A.size(0));
  if (!call.omega.defined()) {
    return {nullptr, nullptr, 1, scaling, rank};
  }
  TORCH_INTERNAL_ASSERT(call.omega.is_contiguous() && call.omega.scalar_type() == at::kFloat);
  const auto experts = call.omega.size(1);
  return {elements<float>(call.omega), elements<device::int64>(call.segment_of_row), experts, scaling,
          static_cast<device::int32>(rank / experts)};
}

// drop(x) A^T (n = 0) or x B (n = 1) as parts [parts, rows, r], or [rows, r] where one part does.
template <int n>
at::Tensor project_down(const at::Tensor& x, const at::Tensor& matrix, std::int64_t rank,
                        const device::KeyedMask& mask) {
  using Kernel = device::ProjectDown<float, n>;
  const auto rows = x.size(0);
  const auto width = x.size(1);
  const auto blocks = blocks_for(rows, Kernel::kBlockRows) * tiles_of(rank);
  const std::int64_t chunks = blocks_for(width, Kernel::kColumns);
  const auto wanted = std::clamp<std::int64_t>(kBusyBlocks / std::max<std::int64_t>(blocks, 1), 1, chunks);
  const std::int64_t of_part = blocks_for(chunks, wanted);
  const std::int64_t parts = blocks_for(chunks, of_part);
  const at::TensorOptions options = x.options().dtype(at::kFloat).requires_grad(false);
  at::Tensor u = parts > 1 ? at::empty({parts, rows, rank}, options) : at::empty({rows, rank}, options);
  with_element(x.scalar_type(), [&]<typename T>(T) {
    launch(x.device(),
           device::ProjectDown<T, n>{elements<T>(x), in_packs({width}, {&x}), factor(matrix, width, rank), mask, rows,
                                     of_part * Kernel::kColumns, mutable_elements<float>(u)},
           {static_cast<std::uint32_t>(blocks), static_cast<std::uint32_t>(parts)});
  });
  return u;
}

device::UpTile up_tile(const DeviceLowRank& call, const at::Tensor& values, const at::Tensor& matrix,
                       std::int64_t width) {
  return {inner(values), entry_weights(call), factor(matrix, width, call.A.size(0)), values.size(-2)};
}

Grid up_grid(std::int64_t rows, std::int64_t width) {
  return {blocks_for(width, device::UpTile::kColumns), blocks_for(rows, device::UpTile::kBlockRows)};
}

template <typename T>
device::RowValues<T> row_values(const RowRecipe& rows, at::ScalarType type) {
  TORCH_INTERNAL_ASSERT(rows.x.scalar_type() == type);
  using Function = RowRecipe::Function;
  const auto function = rows.function == Function::stored ? device::RowFunction::stored
                        : rows.function == Function::gelu ? device::RowFunction::gelu
                                                          : device::RowFunction::normalised;
  const bool packed = in_packs({rows.x.size(1)}, {&rows.x, &rows.weight, &rows.bias});
  return {elements<T>(rows.x),
          function,
          packed,
          elements<float>(rows.mean),
          elements<float>(rows.rstd),
          elements<T>(rows.weight),
          elements<T>(rows.bias)};
}

FactorGradients factor_gradients(const DeviceLowRank& call, const at::Tensor& dy, const RowRecipe& x,
                                 const at::Tensor& u, const at::Tensor& dv) {
  const auto rows = dy.size(0);
  const auto rank = call.A.size(0);
  const auto d_in = call.A.size(1);
  const auto d_out = call.B.size(0);
  using Kernel = device::SumFactorGradients<float>;
  const auto blocks_a = blocks_for(d_in, Kernel::kColumns);
  const auto blocks_b = blocks_for(d_out, Kernel::kColumns);
  const auto blocks = (blocks_a + blocks_b) * tiles_of(rank);
  // Three times the blocks that run at once, so that the last ones leave little idle.
  const auto most = blocks_for(rows, Kernel::kBlockRows);
  const auto wanted = std::clamp<std::int64_t>(3 * kBusyBlocks / blocks, 1, std::max<std::int64_t>(most, 1));
  const auto range = blocks_for(most, wanted) * static_cast<std::int64_t>(Kernel::kBlockRows);
  const auto ranges = rows == 0 ? 0 : blocks_for(rows, range);
  const at::TensorOptions options = dy.options().dtype(at::kFloat).requires_grad(false);
  const at::Tensor sums = at::empty({ranges * rank * (d_in + d_out)}, options);
  auto* sums_a = mutable_elements<float>(sums);
  auto* sums_b = sums_a + ranges * rank * d_in;
  with_element(dy.scalar_type(), [&]<typename T>(T) {
    const device::KeyedMask none{nullptr, nullptr, 0, 0, 1.0f};
    const device::FactorSums<T> a{row_values<T>(x, dy.scalar_type()), call.mask, inner(dv), d_in, blocks_a, sums_a};
    const device::FactorSums<T> b{
        row_values<T>(StoredRows(dy).recipe(), dy.scalar_type()), none, inner(u), d_out, blocks_b, sums_b};
    launch(dy.device(), device::SumFactorGradients<T>{a, b, entry_weights(call), rows, range},
           {static_cast<std::uint32_t>(blocks), static_cast<std::uint32_t>(ranges)});
  });
  FactorGradients result{at::empty({rank, d_in}, options), at::empty({d_out, rank}, options)};
  launch(dy.device(),
         device::AddFactorSums{sums_a, sums_b, mutable_elements<float>(result.A), mutable_elements<float>(result.B),
                               d_in, d_out, static_cast<device::int32>(rank), static_cast<device::int32>(ranges)},
         {blocks_for(rank * (d_in + d_out), device::AddFactorSums::kThreads)});
  return result;
}

void add_omega_gradient(const DeviceLowRank& call, const at::Tensor& u, const at::Tensor& dv,
                        const at::Tensor& domega) {
  TORCH_INTERNAL_ASSERT(domega.is_contiguous() && domega.sizes() == call.omega.sizes());
  const auto weights = entry_weights(call);
  const auto rows = u.size(0);
  auto* place = mutable_elements<float>(domega);
  if (call.segment_of_row.defined()) {
    launch(u.device(), device::AddExpertWeightGradient{inner(u), inner(dv), weights, rows, place},
           {static_cast<std::uint32_t>(domega.size(0)), static_cast<std::uint32_t>(weights.experts)});
  } else {
    launch(u.device(), device::AddRowWeightGradient{inner(u), inner(dv), weights, rows, place},
           {blocks_for(rows * weights.experts, device::AddRowWeightGradient::kThreads)});
  }
}

}  // namespace

bool supports_device_low_rank(const at::Tensor& x, const at::Tensor& A, const at::Tensor& B) {
  return has_device_kernels(x) && A.device() == x.device() && B.device() == x.device() &&
         A.scalar_type() == at::kFloat && B.scalar_type() == at::kFloat && A.is_contiguous() && B.is_contiguous();
}

at::Tensor low_rank_forward(const DeviceLowRank& call, const at::Tensor& x, const at::Tensor& bias, at::Tensor& u) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor shift = bias.defined() ? bias.contiguous() : bias;
  TORCH_INTERNAL_ASSERT(!shift.defined() || shift.scalar_type() == x.scalar_type());
  const auto d_out = call.B.size(0);
  const at::Tensor parts = project_down<0>(rows, call.A, call.A.size(0), call.mask);
  u = parts.dim() == 2 ? parts : at::empty(parts.sizes().slice(1), parts.options());
  at::Tensor y = at::empty({rows.size(0), d_out}, rows.options().requires_grad(false));
  with_element(x.scalar_type(), [&]<typename T>(T) {
    launch(
        x.device(),
        device::ProjectUp<T>{up_tile(call, parts, call.B, d_out), elements<T>(shift), mutable_elements<T>(y),
                             parts.dim() == 2 ? nullptr : mutable_elements<float>(u), in_packs({d_out}, {&y, &shift})},
        up_grid(rows.size(0), d_out));
  });
  return y;
}

FactorGradients low_rank_backward(const DeviceLowRank& call, const at::Tensor& dy, const RowSource& x,
                                  const at::Tensor& u, at::Tensor& dx, const at::Tensor& domega) {
  const auto d_in = call.A.size(1);
  const at::Tensor gradient = dy.contiguous();
  const at::Tensor dv = project_down<1>(gradient, call.B, call.A.size(0), {nullptr, nullptr, 0, 0, 1.0f});
  const RowRecipe recipe = call.trains || x.is_elementwise() ? x.recipe() : RowRecipe();
  FactorGradients result;
  if (call.trains) {
    result = factor_gradients(call, gradient, recipe, u, dv);
  }
  if (dx.defined()) {
    TORCH_INTERNAL_ASSERT(dx.is_contiguous() && dx.scalar_type() == dy.scalar_type());
    const bool gelu = recipe.function == RowRecipe::Function::gelu;
    const at::Tensor before = gelu ? recipe.x : at::Tensor();
    with_element(dy.scalar_type(), [&]<typename T>(T) {
      launch(dy.device(),
             device::AddInputGradient<T>{up_tile(call, dv, call.A, d_in), call.mask, elements<T>(before),
                                         mutable_elements<T>(dx), in_packs({d_in}, {&dx, &before})},
             up_grid(dy.size(0), d_in));
    });
    if (x.is_elementwise() && !gelu) {
      x.multiply_by_derivative(dx);
    }
  }
  if (domega.defined()) {
    add_omega_gradient(call, u, dv, domega);
  }
  return result;
}

std::vector<KernelInfo> low_rank_kernels() {
  std::vector<KernelInfo> kernels;
  for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    with_element(type, [&]<typename T>(T) {
      kernels.push_back(kernel_info<device::ProjectDown<T, 0>>());
      kernels.push_back(kernel_info<device::ProjectDown<T, 1>>());
      kernels.push_back(kernel_info<device::ProjectUp<T>>());
      kernels.push_back(kernel_info<device::AddInputGradient<T>>());
      kernels.push_back(kernel_info<device::SumFactorGradients<T>>());
    });
  }
  kernels.push_back(kernel_info<device::AddFactorSums>());
  kernels.push_back(kernel_info<device::AddExpertWeightGradient>());
  kernels.push_back(kernel_info<device::AddRowWeightGradient>());
  return kernels;
}

}  // namespace moelora::nn::kernels
