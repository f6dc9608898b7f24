// Saving, loading and fingerprints on the pretend device.
#include <gtest/gtest.h>

#include "device/adapted_model.h"
#include "moelora/model/chatglm/load.h"
#include "moelora/model/registry.h"

namespace moelora {
namespace {

using namespace testing::device;  // NOLINT(google-build-using-namespace)
namespace pretend = testing::pretend;

TEST(DeviceFiles, AdapterAndModelComeBack) {
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf}) {
    const testing::TemporaryFolder folder;
    AdaptedModel device = adapted_model(pretend_device(), dtype);
    save_adapter(*device.adapter, folder.path() / "adapter", "", "", {});
    std::filesystem::create_directories(folder.path() / "model");
    model::save_chatglm(*device.model, folder.path() / "model");
    model::LoadOptions options;
    options.device = pretend_device();
    options.dtype = dtype;
    model::ChatGlm model = model::load_chatglm(folder.path() / "model", options);
    Adapter adapter = load_adapter(*model, folder.path() / "adapter", "", "");
    const auto saved = adapter_tensors(*device.adapter), loaded = adapter_tensors(*adapter);
    ASSERT_EQ(loaded.size(), saved.size());
    for (std::size_t i = 0; i < saved.size(); ++i) {
      EXPECT_EQ(loaded[i].first, saved[i].first);
      EXPECT_TRUE(loaded[i].second.device().is_privateuseone());
      EXPECT_TRUE(at::equal(loaded[i].second.cpu(), saved[i].second.cpu())) << saved[i].first;
    }
    const auto before = device.model->parameters(), after = model->parameters();
    for (std::size_t i = 0; i < before.size(); ++i) {
      EXPECT_TRUE(at::equal(after[i].cpu(), before[i].cpu())) << "parameter " << i;
    }
  }
}

// The bytes of both are the same file's.
TEST(DeviceFiles, ADevicesAdapterIsTheCpusFile) {
  const testing::TemporaryFolder folder;
  save_adapter(*adapted_model(at::kCPU).adapter, folder.path() / "host", "", "", {});
  save_adapter(*adapted_model(pretend_device()).adapter, folder.path() / "device", "", "", {});
  EXPECT_TRUE(train::fixture::bytes_of(folder.path() / "host" / "adapter.safetensors") ==
              train::fixture::bytes_of(folder.path() / "device" / "adapter.safetensors"));
}

TEST(DeviceFiles, TheFingerprintIsTheCpus) {
  const std::string host = model::base_fingerprint(*load_tiny(at::kCPU, at::kFloat));
  EXPECT_EQ(model::base_fingerprint(*load_tiny(pretend_device(), at::kFloat)), host);
}

// Of a model that goes to a device the fingerprint is taken of what was read, not of what was copied back.
TEST(DeviceFiles, LoadingTakesTheFingerprintOnTheWay) {
  for (const std::optional<at::ScalarType> dtype : {std::optional(at::kFloat), std::optional(at::kHalf)}) {
    model::LoadOptions options;
    options.dtype = dtype;
    options.fingerprint = true;
    const auto host = model::load(testing::fixtures() / "chatglm-tiny", options);
    options.device = pretend_device();
    pretend::reset();
    const auto device = model::load(testing::fixtures() / "chatglm-tiny", options);
    const auto counted = pretend::counters();
    EXPECT_EQ(device.base_fingerprint, host.base_fingerprint);
    EXPECT_EQ(counted.waits, counted.blocking_uploads) << "nothing is copied back: " << counted.to_text();
    EXPECT_EQ(counted.uploads, static_cast<std::int64_t>(device.model->parameters().size()));
    for (const at::Tensor& parameter : device.model->parameters()) {
      EXPECT_EQ(parameter.scalar_type(), *dtype);
      EXPECT_TRUE(parameter.device().is_privateuseone());
    }
  }
}

}  // namespace
}  // namespace moelora
