// Merging and unmerging on whole models of every kind that the fixtures have: bytes come back in each dtype, and a task
// that is folded in answers as beside the weights.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <tuple>

#include "moelora/adapter/adapter.h"
#include "moelora/adapter/merge.h"
#include "moelora/model/registry.h"
#include "moelora/nn/linear.h"
#include "support/shared.h"

namespace moelora {
namespace {

class MergeOnBase : public ::testing::TestWithParam<std::tuple<const char*, at::ScalarType>> {
 protected:
  MergeOnBase() {
    model::LoadOptions options;
    options.tokenizer = false;
    options.dtype = std::get<1>(GetParam());
    model_ = model::load(testing::fixtures() / std::get<0>(GetParam()), options).model;
    MoeLoraConfig config;
    config.rank = 8;
    config.num_experts = 4;
    config.targets.clear();
    for (const auto& module : model_->named_modules()) {
      const auto* linear = module.value()->as<nn::Linear>();
      if (linear != nullptr && linear->refusal().empty()) {
        config.targets.push_back(module.key());
      }
    }
    adapter_ = inject(*model_, config, TaskNames({"a", "b", "c"}));
    adapter_->eval();
    const at::NoGradGuard no_grad;
    auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
    for (const auto& linear : adapter_->linears()) {
      linear.delta->tensor("A").normal_(0.0, 0.05, generator);
      linear.delta->tensor("B").normal_(0.0, 0.05, generator);
    }
    for (const auto& parameter : model_->named_parameters()) {
      original_[parameter.key()] = parameter.value().detach().clone();
    }
  }
  at::Tensor hidden(const nn::RowContext& context) {
    const at::Tensor ids = at::arange(20, 20 + segments_.rows(), at::kLong);
    return model_->hidden(ids, model_->positions(segments_), context).to(at::kFloat);
  }
  bool base_is_original() const {
    const auto parameters = model_->named_parameters();
    return std::all_of(parameters.begin(), parameters.end(), [&](const auto& parameter) {
      const at::Tensor& then = original_.at(parameter.key());
      return std::memcmp(parameter.value().data_ptr(), then.data_ptr(), then.nbytes()) == 0;
    });
  }

  const at::NoGradGuard no_grad_;
  std::shared_ptr<model::CausalLM> model_;
  Adapter adapter_{nullptr};
  std::map<std::string, at::Tensor> original_;
  const nn::Segments segments_ = nn::Segments::from_lengths({9, 4});
};

TEST_P(MergeOnBase, GivesTheAdaptersAnswersAndTheBytesBack) {
  ASSERT_FALSE(adapter_->linears().empty());
  const at::Tensor base = [&] {
    adapter_->disable();
    const at::Tensor plain = hidden(nn::RowContext::plain(segments_));
    adapter_->enable();
    return plain;
  }();
  const double rounding = std::get<1>(GetParam()) == at::kFloat  ? 1e-4
                          : std::get<1>(GetParam()) == at::kHalf ? 0.05
                                                                 : 0.3;
  for (const std::string& task : adapter_->tasks().names()) {
    const std::int64_t index = adapter_->tasks().index(task);
    const at::Tensor beside = hidden(adapter_->context(segments_, single_tasks({index, index})));
    merge_for_task(adapter_, task);
    const at::Tensor folded = hidden(nn::RowContext::plain(segments_));
    EXPECT_LE((folded - beside).norm().item<double>(), rounding * (beside - base).norm().item<double>()) << task;
    unmerge(adapter_);
    EXPECT_TRUE(base_is_original()) << task;
  }
}

INSTANTIATE_TEST_SUITE_P(Bases, MergeOnBase,
                         ::testing::Combine(::testing::Values("chatglm-tiny", "qwen2-tiny", "qwen3-tiny", "llama3-tiny",
                                                              "glm-tiny"),
                                            ::testing::Values(at::kFloat, at::kHalf, at::kBFloat16)),
                         [](const auto& info) {
                           std::string name =
                               std::string(std::get<0>(info.param)) + "_" + at::toString(std::get<1>(info.param));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace moelora
