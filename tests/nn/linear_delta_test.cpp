#include "moelora/nn/linear_delta.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace moelora::nn {
namespace {

class NamedDelta : public LinearDelta {
 public:
  NamedDelta() : LinearDelta("NamedDelta") {
    register_parameter("up", at::zeros({2, 3}));
    register_buffer("counts", at::zeros({4}));
    register_parameter("down", at::zeros({5}));
  }
  at::Tensor forward(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias,
                     const RowContext&) override {
    return weight.forward(x, bias);
  }
};

TEST(LinearDelta, ListsParametersThenBuffersByName) {
  const NamedDelta delta;
  std::vector<std::string> names;
  for (const auto& [name, tensor] : delta.tensors()) {
    names.push_back(name);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"up", "down", "counts"}));
  EXPECT_TRUE(delta.tensor("down").is_same(delta.tensors()[1].second));
  EXPECT_EQ(delta.parameter_count(), 11);  // a buffer is none
  EXPECT_EQ(delta.operations_per_row(), 66.0);
  EXPECT_EQ(delta.device(), at::Device(at::kCPU));
  try {
    delta.tensor("left");
    FAIL() << "there is no tensor of that name";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("NamedDelta (up, down, counts), found 'left'"), std::string::npos)
        << error.what();
  }
}

TEST(LinearDelta, IsNotMergeableUnlessItSaysSo) {
  const NamedDelta delta;
  try {
    delta.require_mergeable();
    FAIL() << "it has no matrix";
  } catch (const NotMergeable& error) {
    EXPECT_EQ(std::string(error.what()),
              "NotMergeable: the update of 'NamedDelta' offers no matrix to add to the weight; serve it unmerged");
  }
  EXPECT_THROW(delta.low_rank({}), NotMergeable);
}

}  // namespace
}  // namespace moelora::nn
