#include "moelora/model/finite_logits.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <limits>

#include "moelora/io/finite.h"
#include "moelora/model/chatglm/chatglm.h"
#include "moelora/model/generation.h"
#include "support/tiny_chatglm.h"

namespace moelora::model {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The message of generating with a model whose parameter `name` was changed; empty if it went well.
std::string failure_of(ChatGlm& model, const TokenIds& prompt = {5, 6, 7, 91, 94}) {
  GenerationOptions options;
  options.max_new_tokens = 3;
  try {
    generate(*model, {Prompt{{9, 91, 94}, 2}, Prompt{prompt, static_cast<std::int64_t>(prompt.size()) - 1}}, options);
  } catch (const io::NotFinite& error) {
    return error.what();
  }
  return {};
}

void change(ChatGlm& model, const std::string& name, const std::function<void(at::Tensor&)>& how) {
  at::NoGradGuard no_grad;
  at::Tensor parameter = model->named_parameters()[name];
  how(parameter);
}

TEST(FiniteLogits, TheFirstLayerThatIsNotFiniteIsNamedWithItsWeights) {
  for (const float bad : {kNaN, kInfinity, -kInfinity}) {
    for (const std::string layer : {"transformer.layers.0", "transformer.layers.1"}) {
      for (const std::string part : {".attention.dense.weight", ".mlp.dense_4h_to_h.bias", ".input_layernorm.weight"}) {
        ChatGlm model(testing::tiny_config());
        change(model, layer + part, [&](at::Tensor& weight) { weight.view(-1)[3] = bad; });
        const std::string text = failure_of(model);
        EXPECT_NE(text.find("the first layer whose output is not finite is " + layer + " "), std::string::npos) << text;
        EXPECT_NE(text.find(layer + part + " (1 of"), std::string::npos) << text;
      }
    }
    ChatGlm model(testing::tiny_config());
    change(model, "transformer.final_layernorm.bias", [&](at::Tensor& weight) { weight[0] = bad; });
    EXPECT_NE(failure_of(model).find("is transformer.final_layernorm"), std::string::npos) << failure_of(model);
    ChatGlm headless(testing::tiny_config());
    change(headless, "lm_head.weight", [&](at::Tensor& weight) { weight[7][0] = bad; });
    EXPECT_NE(failure_of(headless).find("is lm_head"), std::string::npos) << failure_of(headless);
  }
}

TEST(FiniteLogits, AnEmbeddingRowIsNamedByItsTokenAndOnlyWhereItIsUsed) {
  ChatGlm model(testing::tiny_config());
  change(model, "transformer.word_embeddings.weight", [](at::Tensor& weight) { weight[6].fill_(kNaN); });
  const std::string text = failure_of(model);
  EXPECT_NE(text.find("prompt 1, token 0"), std::string::npos) << text;
  EXPECT_NE(text.find("transformer.word_embeddings (from token 1 on, id 6)"), std::string::npos) << text;
  EXPECT_EQ(failure_of(model, {5, 7, 91, 94}), "");
}

TEST(FiniteLogits, FiniteWeightsWhoseValuesLeaveTheirRangeAreCalledThat) {
  ChatGlm model(testing::tiny_config(), random_tensors(0, at::kHalf));
  change(model, "transformer.layers.1.mlp.dense_4h_to_h.bias", [](at::Tensor& bias) { bias.fill_(6e4); });
  change(model, "transformer.layers.1.post_attention_layernorm.bias", [](at::Tensor& bias) { bias.fill_(6e3); });
  const std::string text = failure_of(model);
  EXPECT_NE(text.find("is transformer.layers.1 "), std::string::npos) << text;
  EXPECT_NE(text.find("leave the range of float16"), std::string::npos) << text;
}

TEST(FiniteLogits, AModelThatCanNotBeLookedIntoFailsAllTheSame) {
  class Opaque : public CausalLM {
   public:
    Opaque() { register_parameter("weight", at::full({1}, kNaN)); }
    at::Tensor hidden(const at::Tensor& ids, const at::Tensor&, const nn::RowContext&,
                      const ForwardOptions& options) override {
      const at::Tensor rows = ids.to(at::kFloat).unsqueeze(1) * parameters().front();
      return options.output_rows.defined() ? rows.index_select(0, options.output_rows) : rows;
    }
    at::Tensor head_weight() const override { return {}; }
    at::Tensor logits(const at::Tensor& rows) override { return rows.expand({rows.size(0), 8}); }
    at::Tensor positions(const nn::Segments& segments) const override {
      return at::zeros({1, segments.rows()}, at::kLong);
    }
    at::Tensor position_at(std::int64_t, std::int64_t) const override { return at::zeros({1, 1}, at::kLong); }
    ModelShape shape() const override { return {1, 1, 1, 1, 1, 8, 16}; }
  } model;
  try {
    generate(model, {Prompt{{1, 2}, 1}}, {});
    FAIL() << "answered";
  } catch (const io::NotFinite& error) {
    EXPECT_NE(std::string(error.what()).find("weight (1 of 1"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace moelora::model
