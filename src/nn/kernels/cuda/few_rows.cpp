#include "nn/kernels/cuda/few_rows.h"

#include <ATen/ops/empty.h>

#include "nn/kernels/cuda/alignment.h"

namespace moelora::nn::kernels {
namespace {

constexpr std::int64_t kMostRows = 64;  // from here on products of matrices are faster

bool are_factors(const at::Tensor& v, const at::Tensor& B) {
  return v.scalar_type() == at::kFloat && B.scalar_type() == at::kFloat && v.size(1) == B.size(1);
}

at::Tensor as_contiguous(const at::Tensor& x) { return x.defined() ? x.contiguous() : x; }

}  // namespace

bool takes_few_rows_product(const at::Tensor& x, const at::Tensor& weight) {
  return has_device_kernels(x) && x.dim() == 2 && x.size(0) >= 1 && x.size(0) <= device::kRowsAtOnce &&
         weight.dim() == 2 && weight.size(1) == x.size(1) && weight.is_contiguous() &&
         weight.scalar_type() == x.scalar_type() && weight.device() == x.device();
}

bool takes_few_rows(const at::Tensor& x, std::int64_t rank) {
  return has_device_kernels(x) && x.dim() == 2 && x.size(0) >= 1 && x.size(0) <= kMostRows &&
         rank <= device::FewRowsUp<float>::kMostRank;
}

at::Tensor few_rows_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& v,
                            const at::Tensor& B) {
  const auto rows = x.size(0);
  const auto columns = weight.size(0);
  TORCH_INTERNAL_ASSERT(weight.is_contiguous() && weight.size(1) == x.size(1) &&
                        weight.scalar_type() == x.scalar_type() &&
                        (!bias.defined() || (bias.scalar_type() == x.scalar_type() && bias.size(0) == columns)));
  TORCH_INTERNAL_ASSERT(v.defined() == B.defined() &&
                        (!v.defined() || (are_factors(v, B) && v.size(0) == rows && B.size(0) == columns)));
  const at::Tensor input = x.contiguous();
  const at::Tensor added = as_contiguous(bias), factors = as_contiguous(v), b = as_contiguous(B);
  at::Tensor y = at::empty({rows, columns}, x.options().requires_grad(false));
  with_element(x.scalar_type(), [&]<typename T>(T) {
    using Product = device::FewRowsProduct<T>;
    Product product{};
    product.x = elements<T>(input);
    product.weight = elements<T>(weight);
    product.bias = elements<T>(added);
    product.v = elements<float>(factors);
    product.b = elements<float>(b);
    product.y = mutable_elements<T>(y);
    product.rows = rows;
    product.width = x.size(1);
    product.columns = columns;
    product.rank = v.defined() ? v.size(1) : 0;
    product.packed = is_packed<Product::kPack>(input) && is_packed<Product::kPack>(weight);
    launch(x.device(), product,
           {blocks_for(columns, Product::kColumns * Product::kThreads / device::kWarp),
            blocks_for(rows, device::kRowsAtOnce)});
  });
  return y;
}

at::Tensor few_rows_down(const at::Tensor& x, const at::Tensor& A, const at::Tensor& omega,
                         const at::Tensor& omega_of_row, double scaling) {
  const auto rows = x.size(0);
  const auto rank = A.size(0);
  TORCH_INTERNAL_ASSERT(A.scalar_type() == at::kFloat && A.size(1) == x.size(1));
  TORCH_INTERNAL_ASSERT(!omega.defined() || (omega.scalar_type() == at::kFloat && omega.stride(1) == 1 &&
                                             rank % omega.size(1) == 0 && omega_of_row.is_contiguous()));
  const at::Tensor input = x.contiguous();
  const at::Tensor a = A.contiguous();
  at::Tensor v = at::empty({rows, rank}, A.options().requires_grad(false));
  with_element(x.scalar_type(), [&]<typename T>(T) {
    using Down = device::FewRowsDown<T>;
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
    launch(x.device(), down, {static_cast<std::uint32_t>(rank), blocks_for(rows, device::kRowsAtOnce)});
  });
  return v;
}

void add_few_rows(const at::Tensor& y, const at::Tensor& v, const at::Tensor& B) {
  const auto rank = B.size(1);
  TORCH_INTERNAL_ASSERT(y.is_contiguous() && are_factors(v, B) && v.is_contiguous() && v.size(0) == y.size(0) &&
                        B.size(0) == y.size(1) && rank <= device::FewRowsUp<float>::kMostRank);
  const at::Tensor b = B.contiguous();
  with_element(y.scalar_type(), [&]<typename T>(T) {
    using Up = device::FewRowsUp<T>;
    launch(y.device(),
           Up{elements<float>(v), elements<float>(b), mutable_elements<T>(y), y.size(0), rank, y.size(1),
              is_packed<Up::kPack>(b)},
           {blocks_for(y.size(1), Up::kThreads), blocks_for(y.size(0), device::kRowsAtOnce)});
  });
}

std::vector<KernelInfo> few_rows_kernels() {
  std::vector<KernelInfo> all;
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    with_element(type, [&]<typename T>(T) {
      all.push_back(kernel_info<device::FewRowsProduct<T>>());
      all.push_back(kernel_info<device::FewRowsDown<T>>());
      all.push_back(kernel_info<device::FewRowsUp<T>>());
    });
  }
  return all;
}

}  // namespace moelora::nn::kernels
