#include "nn/move_together.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

namespace moelora::nn {
namespace {

TEST(MoveTogether, LeavesTensorsOfTheCpuAlone) {
  at::Tensor a = at::tensor({1, 2, 3}, at::kLong);
  at::Tensor b;
  const void* place = a.const_data_ptr();
  move_together({&a, &b}, at::kCPU);
  EXPECT_EQ(a.const_data_ptr(), place);
  EXPECT_FALSE(b.defined());
}

TEST(MoveTogether, KeepsShapesAndTypesInOneStorage) {
  at::Tensor a = at::empty({3, 5}, at::kLong);
  at::Tensor b;
  at::Tensor c = at::empty({0}, at::kInt);
  at::Tensor d = at::empty({7}, at::kInt);
  move_together({&a, &b, &c, &d}, at::kMeta);
  EXPECT_TRUE(a.is_meta());
  EXPECT_EQ(a.sizes(), at::IntArrayRef({3, 5}));
  EXPECT_EQ(a.scalar_type(), at::kLong);
  EXPECT_FALSE(b.defined());
  EXPECT_EQ(c.numel(), 0);
  EXPECT_EQ(d.sizes(), at::IntArrayRef({7}));
  EXPECT_EQ(d.scalar_type(), at::kInt);
  EXPECT_TRUE(a.storage().is_alias_of(d.storage()));
}

}  // namespace
}  // namespace moelora::nn
