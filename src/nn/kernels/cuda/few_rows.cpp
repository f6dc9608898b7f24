#include "nn/kernels/cuda/few_rows.h"

#include <ATen/ops/empty.h>

#include "nn/kernels/cuda/alignment.h"

namespace moelora::nn::kernels {
namespace {

// From here on products of matrices are faster: A and B are read once for each kRowsAtOnce rows.
constexpr std::int64_t kMostRows = 64;

}  // namespace

bool takes_few_rows(const at::Tensor& x, std::int64_t rank) {
  return has_device_kernels(x) && x.dim() == 2 && x.size(0) >= 1 && x.size(0) <= kMostRows &&
         rank <= device::FewRowsUp<float>::kMostRank;
}

void add_few_rows(const at::Tensor& y, const at::Tensor& x, const at::Tensor& A, const at::Tensor& B,
                  const at::Tensor& omega, const at::Tensor& omega_of_row, double scaling) {
  const auto rows = x.size(0);
  const auto rank = A.size(0);
  TORCH_INTERNAL_ASSERT(y.is_contiguous() && y.scalar_type() == x.scalar_type() && A.size(1) == x.size(1) &&
                        B.size(0) == y.size(1) && B.size(1) == rank && rank <= device::FewRowsUp<float>::kMostRank);
  TORCH_INTERNAL_ASSERT(A.scalar_type() == at::kFloat && B.scalar_type() == at::kFloat);
  TORCH_INTERNAL_ASSERT(!omega.defined() || (omega.scalar_type() == at::kFloat && omega.stride(1) == 1 &&
                                             rank % omega.size(1) == 0 && omega_of_row.is_contiguous()));
  const at::Tensor input = x.contiguous();
  const at::Tensor a = A.contiguous();
  const at::Tensor b = B.contiguous();
  const at::Tensor v = at::empty({rows, rank}, A.options().requires_grad(false));
  const std::uint32_t chunks = blocks_for(rows, device::kRowsAtOnce);
  with_element(x.scalar_type(), [&]<typename T>(T) {
    using Down = device::FewRowsDown<T>;
    using Up = device::FewRowsUp<T>;
    Down down{};
    down.x = elements<T>(input);
    down.a = elements<float>(a);
    down.omega = elements<float>(omega);
    down.omega_of_row = elements<std::int64_t>(omega_of_row);
    down.omega_stride = omega.defined() ? omega.stride(0) : 0;
    down.share = omega.defined() ? rank / omega.size(1) : rank;
    down.scaling = static_cast<float>(scaling);
    down.v = mutable_elements<float>(v);
    down.rows = rows;
    down.width = x.size(1);
    down.packed = is_packed<Down::kPack>(input) && is_packed<Down::kPack>(a);
    launch(x.device(), down, {static_cast<std::uint32_t>(rank), chunks});
    launch(x.device(),
           Up{elements<float>(v), elements<float>(b), mutable_elements<T>(y), rows, rank, y.size(1),
              is_packed<Up::kPack>(b)},
           {blocks_for(y.size(1), Up::kThreads), chunks});
  });
}

std::vector<KernelInfo> few_rows_kernels() {
  std::vector<KernelInfo> all;
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    with_element(type, [&]<typename T>(T) {
      all.push_back(kernel_info<device::FewRowsDown<T>>());
      all.push_back(kernel_info<device::FewRowsUp<T>>());
    });
  }
  return all;
}

}  // namespace moelora::nn::kernels
