#include "moelora/nn/linears_together.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <vector>

namespace moelora::nn {
namespace {

TEST(LinearsTogether, EqualEachAloneBitForBit) {
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const std::int64_t rows : {1, 2, 40}) {  // 40: more than a few
      const at::Tensor x = at::randn({rows, 72}).to(dtype);
      const RowContext context = RowContext::plain(Segments::from_lengths({rows}));
      std::vector<Linear> linears;
      std::vector<LinearImpl*> pointers;
      for (const std::int64_t d_out : {576, 3, 1, 190}) {
        linears.emplace_back(at::randn({d_out, 72}).to(dtype),
                             d_out == 3 ? at::Tensor() : at::randn({d_out}).to(dtype));
        pointers.push_back(linears.back().get());
      }
      at::NoGradGuard no_grad;
      const std::vector<at::Tensor> found = forward_together(pointers, x, context);
      ASSERT_EQ(found.size(), linears.size());
      for (std::size_t i = 0; i < linears.size(); ++i) {
        EXPECT_TRUE(at::equal(found[i], linears[i]->forward(x, context))) << dtype << ' ' << rows << ' ' << i;
        EXPECT_EQ(found[i].scalar_type(), dtype);
      }
    }
  }
}

TEST(LinearsTogether, AreRecordedWhereGradientsAreWanted) {
  Linear first(8, 3), second(8, 5);
  const at::Tensor x = at::randn({2, 8});
  const RowContext context = RowContext::plain(Segments::from_lengths({2}));
  const std::vector<at::Tensor> found = forward_together({first.get(), second.get()}, x, context);
  EXPECT_TRUE(found[0].requires_grad());
  EXPECT_TRUE(at::equal(found[1], second->forward(x, context)));
}

}  // namespace
}  // namespace moelora::nn
