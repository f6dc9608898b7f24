#include "moelora/nn/delta_function.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "moelora/nn/linear.h"

namespace moelora::nn {
namespace {

/// delta(x) = c ⊙ (x P^T), P [d_out, d_in] fixed, c [d_out] trained; forward and backward written out.
class ScaledProjection : public LinearDelta {
 public:
  ScaledProjection(std::int64_t in_features, std::int64_t out_features) {
    c_ = register_parameter("c", at::randn({out_features}));
    P_ = register_buffer("P", at::randn({out_features, in_features}));
  }
  at::Tensor forward(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias,
                     const RowContext& context) override {
    auto self = std::static_pointer_cast<const LinearDelta>(shared_from_this());
    return forward_as_function(std::move(self), x, weight, bias, context);
  }
  at::Tensor by_plain_operations(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias) const {
    return weight.forward(x, bias) + at::linear(x, P_) * c_;
  }
  bool supports_manual_backward() const override { return true; }
  std::vector<at::Tensor> trained() const override { return {c_}; }
  at::Tensor begin_forward(const at::Tensor& x, const at::Tensor& bias, const RowContext&,
                           at::Tensor& tape) const override {
    at::NoGradGuard guard;
    tape = at::linear(x, P_);
    return tape * c_ + bias;
  }
  void finish_backward(const at::Tensor& dy, const RowSource&, const at::Tensor& tape, const RowContext&,
                       at::Tensor& dx, DeltaGradients& gradients) const override {
    at::NoGradGuard guard;
    gradients.trained = {(dy * tape).sum(0)};
    if (dx.defined()) {
      dx.add_(at::mm(dy * c_, P_));
    }
  }

 private:
  at::Tensor c_, P_;
};

TEST(DeltaFunction, HasTheValuesAndGradientsOfPlainOperations) {
  at::manual_seed(2);
  const auto delta = std::make_shared<ScaledProjection>(6, 5);
  const FrozenWeight weight(at::randn({5, 6}));
  const at::Tensor bias = at::randn({5});
  const at::Tensor x = at::randn({3, 6}).set_requires_grad(true);
  const RowContext context = RowContext::plain(Segments::for_batch(1, 3));
  const std::vector<at::Tensor> inputs{x, delta->trained().front()};
  const at::Tensor probe = at::randn({3, 5});
  const at::Tensor written = delta->forward(x, weight, bias, context);
  const at::Tensor plain = delta->by_plain_operations(x, weight, bias);
  EXPECT_TRUE(at::allclose(written, plain, 1e-5, 1e-6));
  const auto found = torch::autograd::grad({(written * probe).sum()}, inputs);
  const auto expected = torch::autograd::grad({(plain * probe).sum()}, inputs);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_TRUE(at::allclose(found[i], expected[i], 1e-5, 1e-6)) << "input " << i;
  }
}

TEST(DeltaFunction, NoGradientIsComputedForAnInputThatWantsNone) {
  const auto delta = std::make_shared<ScaledProjection>(6, 5);
  const RowContext context = RowContext::plain(Segments::for_batch(1, 3));
  const at::Tensor x = at::randn({3, 6});
  delta->forward(x, FrozenWeight(at::randn({5, 6})), at::zeros({5}), context).sum().backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(delta->trained().front().grad().defined());
}

}  // namespace
}  // namespace moelora::nn
