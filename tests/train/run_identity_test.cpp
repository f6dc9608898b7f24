#include "moelora/train/run_identity.h"

#include <gtest/gtest.h>

#include "io/raises.h"

namespace moelora::train {
namespace {

using io::raises;

TEST(RunIdentity, OfAnotherDeviceIsAnotherRunUnlessAskedFor) {
  RunIdentity then;
  then.options = "{}";
  then.dtype = "float32";
  then.device = "cuda";
  RunIdentity now = then;
  now.device = "cpu";
  EXPECT_TRUE(
      raises([&] { check_same_run(then, now, 5); }, "model.device: the run began with \"cuda\", found \"cpu\""));
  const auto changes = check_same_run(then, now, 5, {"device"});
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].step, 5);
  then.device = "";  // of an earlier version
  EXPECT_TRUE(check_same_run(then, now, 5).empty());
}

}  // namespace
}  // namespace moelora::train
