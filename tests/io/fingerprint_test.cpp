#include "moelora/io/fingerprint.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "io/raises.h"
#include "moelora/io/sha256.h"
#include "moelora/io/torch_checkpoint.h"
#include "support/shared.h"

namespace moelora::io {
namespace {

// Whole numbers up to 2048 are exact in half precision.
NamedTensors sample_weights() {
  return {{"b", at::arange(0, 2000, at::kFloat).reshape({40, 50})}, {"a", at::arange(-3, 4, at::kFloat)}};
}

NamedTensors converted(const NamedTensors& tensors, at::ScalarType dtype) {
  NamedTensors others;
  for (const auto& [name, tensor] : tensors) {
    others.emplace_back(name, tensor.to(dtype));
  }
  return others;
}

NamedTensors as_list(const std::map<std::string, at::Tensor>& tensors) { return {tensors.begin(), tensors.end()}; }

TEST(Fingerprint, IsTheSameForEveryFormOfTheSameWeights) {
  const NamedTensors weights = sample_weights();
  const std::string expected = fingerprint(weights);
  EXPECT_EQ(fingerprint({weights[1], weights[0]}), expected);
  for (const auto dtype : {at::kHalf, at::kDouble, at::kInt, at::kLong}) {
    EXPECT_EQ(fingerprint(converted(weights, dtype)), expected) << c10::toString(dtype);
  }
  NamedTensors strided = weights;
  strided[0].second = weights[0].second.t().contiguous().t();
  ASSERT_FALSE(strided[0].second.is_contiguous());
  EXPECT_EQ(fingerprint(strided), expected);
}

TEST(Fingerprint, IsTheSameForBinAndSafetensorsFiles) {
  const auto folder = testing::fixtures() / "moelora-tiny";
  EXPECT_EQ(fingerprint(as_list(load_torch_checkpoint(folder / "adapter_model.bin"))),
            fingerprint(as_list(load_safetensors(folder / "adapter_model.safetensors"))));
}

TEST(Fingerprint, FollowsItsDefinition) {
  const at::Tensor tensor = at::arange(0, 6, at::kFloat).reshape({2, 3});
  const float values[] = {0, 1, 2, 3, 4, 5};
  const std::string digest = Sha256().update(values, sizeof values).hex();
  EXPECT_EQ(fingerprint({{"w", tensor}}), sha256_of("1:w [2,3] " + digest + "\n"));
}

TEST(Fingerprint, IsMadeOfTheTensorsDigestsInAnyOrder) {
  const NamedTensors weights = sample_weights();
  EXPECT_EQ(
      fingerprint_of({tensor_digest("a", weights[1].second), tensor_digest("b", weights[0].second.to(at::kHalf))}),
      fingerprint(weights));
}

TEST(Fingerprint, SeesEveryChange) {
  const std::string expected = fingerprint(sample_weights());
  NamedTensors renamed = sample_weights();
  renamed[0].first = "c";
  EXPECT_NE(fingerprint(renamed), expected);
  NamedTensors reshaped = sample_weights();
  reshaped[0].second = reshaped[0].second.reshape({50, 40});
  EXPECT_NE(fingerprint(reshaped), expected);
  NamedTensors changed = sample_weights();
  changed[0].second[39][49] += 0.001;
  EXPECT_NE(fingerprint(changed), expected);
  NamedTensors fewer = sample_weights();
  fewer.pop_back();
  EXPECT_NE(fingerprint(fewer), expected);
}

TEST(Fingerprint, HashesTensorsLargerThanOnePiece) {
  const at::Tensor large = at::arange(0, 200001, at::kInt).remainder(1000).to(at::kHalf);
  const at::Tensor same = large.to(at::kFloat);
  const std::string digest = Sha256().update(same.const_data_ptr(), same.nbytes()).hex();
  EXPECT_EQ(fingerprint({{"w", large}}), sha256_of("1:w [200001] " + digest + "\n"));
}

TEST(Fingerprint, ATensorUnderTwoNamesCountsAsTwo) {
  const at::Tensor tensor = at::arange(0, 24, at::kFloat);
  const at::Tensor start = tensor.narrow(0, 0, 6);  // begins at the same address
  EXPECT_EQ(fingerprint({{"a", tensor}, {"b", tensor.view({4, 6})}, {"c", start}}),
            fingerprint({{"a", tensor}, {"b", tensor.clone().view({4, 6})}, {"c", start.clone()}}));
}

TEST(Fingerprint, TakesScalarsAndEmptyTensors) {
  const NamedTensors odd{{"scalar", at::zeros({}, at::kFloat)}, {"empty", at::empty({0, 4}, at::kFloat)}};
  EXPECT_EQ(fingerprint(odd).size(), 64u);
  EXPECT_NE(fingerprint(odd), fingerprint({}));
}

TEST(Fingerprint, RefusesWhatHasNoMeaning) {
  EXPECT_TRUE(raises([] { fingerprint({{"w", at::Tensor()}}); }, "no fingerprint of the tensor w"));
  EXPECT_TRUE(raises([] { fingerprint({{"w", at::zeros({2}, at::kComplexFloat)}}); }, "real numbers"));
  const at::Tensor tensor = at::zeros({1}, at::kFloat);
  EXPECT_TRUE(raises([&] { fingerprint({{"w", tensor}, {"w", tensor}}); }, "given twice"));
}

}  // namespace
}  // namespace moelora::io
