// Merging, switching and unmerging on the pretend device, wherever the base is kept.
#include "moelora/adapter/merge.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "device/adapted_model.h"
#include "moelora/io/tensor_folder.h"

namespace moelora {
namespace {

using namespace testing::device;  // NOLINT(google-build-using-namespace)
using KeepBase = MergeOptions::KeepBase;

struct MergeCase {
  const char* name;
  at::ScalarType dtype;
  KeepBase keep;
};

class DeviceMerge : public ::testing::TestWithParam<MergeCase> {};

std::vector<at::Tensor> copies(const model::ChatGlm& model) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& parameter : model->parameters()) {
    all.push_back(parameter.detach().cpu().clone());
  }
  return all;
}

TEST_P(DeviceMerge, EqualsTheCpus) {
  const at::ScalarType dtype = GetParam().dtype;
  const KeepBase keep = GetParam().keep;
  AdaptedModel host = adapted_model(at::kCPU, dtype), device = adapted_model(pretend_device(), dtype);
  const io::TensorFolder folder(testing::fixtures() / "chatglm-tiny");
  MergeOptions options;
  options.keep_base = keep;
  options.reread = [&](const std::string& weight) { return folder.tensor(weight, dtype); };
  const auto before = copies(device.model);
  const auto expect_equal_models = [&](const char* when) {
    Worst worst;
    const auto expected = host.model->parameters(), found = device.model->parameters();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      worst.add(found[i], expected[i], std::to_string(i));
    }
    // One rounding of sums that agree to fp32's precision: in fp16 they may fall to neighbours.
    EXPECT_LE(worst.distance, dtype == at::kFloat ? 1e-6 : 1e-3) << when << ", parameter " << worst.name;
  };
  const Certificate expected = merge_for_task(host.adapter, "echo", options);
  const Certificate found = merge_for_task(device.adapter, "echo", options);
  expect_equal_models("merged");
  EXPECT_EQ(found.what, expected.what);
  EXPECT_EQ(found.linears, expected.linears);
  EXPECT_NEAR(found.largest_update, expected.largest_update, 1e-5 * expected.largest_update);
  if (keep == KeepBase::none) {
    return;
  }
  merge_for_task(host.adapter, "sum", options);
  merge_for_task(device.adapter, "sum", options);
  expect_equal_models("switched");
  merge_mixture(host.adapter, {{"sum", 0.25}, {"rest", 0.75}}, options);
  merge_mixture(device.adapter, {{"sum", 0.25}, {"rest", 0.75}}, options);
  expect_equal_models("mixed");
  unmerge(device.adapter);
  const auto after = copies(device.model);
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(at::equal(after[i], before[i])) << "parameter " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Kept, DeviceMerge,
                         ::testing::Values(MergeCase{"Device", at::kFloat, KeepBase::device},
                                           MergeCase{"Host", at::kFloat, KeepBase::host},
                                           MergeCase{"Reread", at::kFloat, KeepBase::reread},
                                           MergeCase{"None", at::kFloat, KeepBase::none},
                                           MergeCase{"DeviceFp16", at::kHalf, KeepBase::device},
                                           MergeCase{"HostFp16", at::kHalf, KeepBase::host},
                                           MergeCase{"RereadFp16", at::kHalf, KeepBase::reread}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moelora
