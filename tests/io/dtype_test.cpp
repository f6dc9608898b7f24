#include "moelora/io/dtype.h"

#include <gtest/gtest.h>

namespace moelora::io {
namespace {

TEST(DtypeName, IsWhatModelConfigurationsWrite) {
  EXPECT_EQ(dtype_name(at::kFloat), "float32");
  EXPECT_EQ(dtype_name(at::kHalf), "float16");
  EXPECT_EQ(dtype_name(at::kBFloat16), "bfloat16");
  EXPECT_EQ(dtype_name(at::kLong), "Long");
}

}  // namespace
}  // namespace moelora::io
