#include "moelora/io/huge_pages.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "moelora/io/error.h"

namespace moelora::io {
namespace {

TEST(HugePages, LargeTensorsAreAlignedAndOrdinary) {
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf}) {
    at::Tensor tensor = empty_on_huge_pages({1031, 1031}, dtype);
    EXPECT_EQ(tensor.sizes(), at::IntArrayRef({1031, 1031}));
    EXPECT_EQ(tensor.scalar_type(), dtype);
    EXPECT_TRUE(tensor.is_contiguous());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % (2u << 20), 0u);
    tensor.fill_(2.0);
    EXPECT_EQ(tensor.to(at::kFloat).sum().item<double>(), 2.0 * 1031 * 1031);
    EXPECT_TRUE(tensor.clone().equal(tensor));
  }
}

TEST(HugePages, SmallAndEmptyTensorsWorkToo) {
  EXPECT_EQ(empty_on_huge_pages({3}, at::kFloat).fill_(1.0).sum().item<double>(), 3.0);
  EXPECT_EQ(empty_on_huge_pages({0, 5}, at::kFloat).numel(), 0);
  EXPECT_THROW(empty_on_huge_pages({std::int64_t{1} << 40, std::int64_t{1} << 40}, at::kFloat), Error);
}

TEST(HugePages, AdviceDoesNotChangeWhatIsThere) {
  at::Tensor tensor = at::full({2 << 20}, 3.0f);
  advise_huge_pages(tensor.data_ptr(), tensor.nbytes());
  advise_huge_pages(tensor.data_ptr(), 5);
  EXPECT_TRUE(tensor.eq(3.0f).all().item<bool>());
}

}  // namespace
}  // namespace moelora::io
