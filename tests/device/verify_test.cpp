// The reference's recorded outputs, computed on the pretend device.
#include "moelora/verify/verify.h"

#include <gtest/gtest.h>

#include "device/adapted_model.h"

namespace moelora {
namespace {

using namespace testing::device;  // NOLINT(google-build-using-namespace)

// Times 1e-4: one and a half spacings of fp16 where the goldens' hidden states are largest (37: spacing 2^-5).
constexpr double kHalfFactor = 500.0;

struct VerifyCase {
  const char* name;
  const char* folder;
  at::ScalarType dtype = at::kFloat;
  double factor = 1.0;
};

class DeviceVerify : public ::testing::TestWithParam<VerifyCase> {};

TEST_P(DeviceVerify, Passes) {
  log::set_level(log::Level::warning);
  verify::VerifyOptions options;
  options.device = pretend_device();
  options.dtype = GetParam().dtype;
  options.tolerance_factor = GetParam().factor;
  const auto report = verify::verify_folder(testing::fixtures() / GetParam().folder, options);
  std::string failed;
  for (const auto& comparison : report.comparisons) {
    if (!comparison.passed) {
      failed += comparison.name + ": " + std::to_string(comparison.difference) + " above " +
                std::to_string(comparison.tolerance) + " " + comparison.detail + "\n";
    }
  }
  EXPECT_TRUE(report.passed()) << failed;
}

INSTANTIATE_TEST_SUITE_P(Fixtures, DeviceVerify,
                         ::testing::Values(VerifyCase{"ChatGlm", "chatglm-tiny"}, VerifyCase{"MoeLora", "moelora-tiny"},
                                           VerifyCase{"Lora", "lora-tiny"}, VerifyCase{"PTuning", "ptuning-tiny"},
                                           VerifyCase{"Qwen2", "qwen2-tiny"}, VerifyCase{"Qwen3", "qwen3-tiny"},
                                           VerifyCase{"Llama3", "llama3-tiny"}, VerifyCase{"Glm", "glm-tiny"},
                                           VerifyCase{"Dynamic", "decoder-variants/llama-dynamic"},
                                           VerifyCase{"Glm4", "decoder-variants/glm4"},
                                           VerifyCase{"ChatGlmFp16", "chatglm-tiny", at::kHalf, kHalfFactor}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moelora
