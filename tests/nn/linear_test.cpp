#include "moelora/nn/linear.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "moelora/io/error.h"

namespace moelora::nn {
namespace {

// Adds a constant to every output: enough to see whether a delta ran.
class ConstantDelta : public LinearDelta {
 public:
  at::Tensor forward(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias,
                     const RowContext&) override {
    return weight.forward(x, bias) + 1.0;
  }
};

TEST(Linear, CarriesTheNamesOfTorchLinear) {
  Linear linear(4, 3);
  EXPECT_EQ(linear->named_parameters().keys(), (std::vector<std::string>{"weight", "bias"}));
  EXPECT_EQ(linear->weight.sizes(), at::IntArrayRef({3, 4}));
}

TEST(Linear, ForwardWithoutContextIsAnErrorWhileADeltaIsActive) {
  Linear linear(4, 3);
  const at::Tensor x = at::randn({2, 4});
  linear->attach("a", std::make_shared<ConstantDelta>());
  EXPECT_NO_THROW(linear->forward(x));
  linear->activate("a");
  try {
    linear->forward(x);
    FAIL() << "ran plainly although a delta is active";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("without a RowContext"), std::string::npos) << error.what();
  }
  linear->activate("");
  EXPECT_NO_THROW(linear->forward(x));
}

TEST(Linear, AppliesOnlyTheActiveDelta) {
  Linear linear(4, 3);
  linear->attach("a", std::make_shared<ConstantDelta>());
  linear->attach("b", std::make_shared<ConstantDelta>());
  const at::Tensor x = at::randn({2, 4});
  const RowContext context = RowContext::plain(Segments::for_batch(1, 2));
  const at::Tensor plain = linear->forward(x, context);
  linear->activate("b");
  EXPECT_TRUE(at::equal(linear->forward(x, context), plain + 1.0));
  EXPECT_THROW(linear->attach("a", std::make_shared<ConstantDelta>()), Error);
  EXPECT_THROW(linear->activate("c"), Error);
  linear->detach("b");
  EXPECT_TRUE(at::equal(linear->forward(x), plain));
}

TEST(Linear, TakesPaddedBatches) {
  Linear linear(4, 3);
  linear->attach("a", std::make_shared<ConstantDelta>());
  linear->activate("a");
  const at::Tensor x = at::randn({2, 5, 4});
  const at::Tensor y = linear->forward(x, RowContext::plain(Segments::for_batch(2, 5)));
  EXPECT_EQ(y.sizes(), at::IntArrayRef({2, 5, 3}));
  EXPECT_THROW(linear->forward(x, RowContext::plain(Segments::for_batch(2, 4))), Error);
}

TEST(Linear, CloneAndHalfLeaveTheDeltaBehind) {
  Linear linear(4, 3);
  linear->attach("a", std::make_shared<ConstantDelta>());
  linear->activate("a");
  const auto copy = std::dynamic_pointer_cast<LinearImpl>(linear->clone());
  EXPECT_EQ(copy->delta("a"), nullptr);
  EXPECT_NO_THROW(copy->forward(at::randn({1, 4})));
  EXPECT_TRUE(at::equal(copy->weight, linear->weight));
  EXPECT_FALSE(copy->weight.is_same(linear->weight));
  linear->to(at::kHalf);
  EXPECT_EQ(linear->active(), "a");
  EXPECT_EQ(linear->weight.scalar_type(), at::kHalf);
}

RowContext made_by(std::uint64_t id, const std::string& name) {
  auto identity = std::make_shared<AdapterIdentity>();
  identity->id = id;
  identity->name = name;
  auto origin = std::make_shared<ContextOrigin>();
  origin->adapter = identity;
  RowContext context = RowContext::plain(Segments::from_lengths({2}, {2}));
  context.origin = origin;
  return context;
}

TEST(Linear, TakesTheContextOfItsActiveAdapterAndOfNone) {
  Linear linear(4, 3);
  const at::Tensor x = at::randn({2, 4});
  EXPECT_NO_THROW(linear->forward(x, made_by(1, "a"))) << "no delta is active";
  const auto delta = std::make_shared<ConstantDelta>();
  linear->attach("free", std::make_shared<ConstantDelta>());
  linear->attach("a", delta);
  delta->adapter = made_by(1, "a").origin->adapter;
  linear->activate("free");
  EXPECT_NO_THROW(linear->forward(x, made_by(1, "a"))) << "a delta that is part of no adapter takes any";
  linear->activate("a");
  EXPECT_NO_THROW(linear->forward(x, made_by(1, "a")));
  EXPECT_NO_THROW(linear->forward(x, RowContext::plain(Segments::from_lengths({2}, {2}))));
  EXPECT_THROW(linear->forward(x, made_by(2, "b")), Error);
  EXPECT_THROW(linear->forward(x, made_by(2, "a")), Error);
  linear->activate("");
  linear->merged_adapter = "a";
  EXPECT_THROW(linear->forward(x, made_by(2, "b")), Error);
}

}  // namespace
}  // namespace moelora::nn
