#include "moelora/io/torch_checkpoint.h"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "moelora/io/safetensors.h"
#include "support/shared.h"

namespace moelora::io {
namespace {

TEST(TorchCheckpoint, EqualsTheSafetensorsFormOfTheSameAdapter) {
  const auto folder = testing::fixtures() / "moelora-tiny";
  const auto pickled = load_torch_checkpoint(folder / "adapter_model.bin");
  const auto reference = load_safetensors(folder / "adapter_model.safetensors");
  ASSERT_EQ(pickled.size(), reference.size());
  for (const auto& [name, tensor] : reference) {
    ASSERT_TRUE(pickled.contains(name)) << name;
    EXPECT_TRUE(at::equal(pickled.at(name), tensor)) << name;
    EXPECT_TRUE(pickled.at(name).is_contiguous()) << name;
  }
}

}  // namespace
}  // namespace moelora::io
