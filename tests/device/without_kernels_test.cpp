// A device that has no kernels of ours: the tensor operations that they stand for give the CPU's results.
#include <gtest/gtest.h>

#include "device/adapted_model.h"
#include "moelora/nn/dropout.h"
#include "support/pretend_device/launcher.h"

namespace moelora {
namespace {

using namespace testing::device;  // NOLINT(google-build-using-namespace)
using testing::pretend::WithoutKernels;

// 1 / 0.9 rounded to fp16 would be 1.1113.
TEST(WithoutKernels, DropoutIsScaledInFp32) {
  const at::Device device = pretend_device();
  const WithoutKernels without;
  const nn::DropoutKey key{99, {5, 1234567890123, 6}};
  const nn::Segments segments = nn::Segments::from_lengths({3, 1, 4});
  const auto on_host = nn::RowContext::plain(segments, at::kCPU, key),
             there = nn::RowContext::plain(segments, device, key);
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const at::Tensor x = at::randn({8, 700}).to(type);
    EXPECT_TRUE(at::equal(nn::apply_keyed_dropout(x.to(device), 0.1, 7, there).cpu(),
                          nn::apply_keyed_dropout(x, 0.1, 7, on_host)))
        << type;
  }
}

TEST(WithoutKernels, AStepEqualsTheCpus) {
  const at::Device where = pretend_device();
  const WithoutKernels without;
  AdaptedModel host = adapted_model(at::kCPU), device = adapted_model(where);
  const auto examples = train::fixture::toy_examples(7);
  for (AdaptedModel* made : {&host, &device}) {
    train::accumulate_gradients(*made->model, made->adapter.get(), samples_of(examples), 9, 64);
  }
  Worst worst;
  const auto expected = adapter_tensors(*host.adapter), found = adapter_tensors(*device.adapter);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst.add(found[i].second.grad(), expected[i].second.grad(), expected[i].first);
  }
  EXPECT_LE(worst.distance, 1e-5) << worst.name;
}

}  // namespace
}  // namespace moelora
