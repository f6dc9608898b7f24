#include "moelora/model/llama/llama.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "moelora/io/safetensors.h"
#include "moelora/model/generation.h"
#include "moelora/model/kv_cache.h"
#include "moelora/model/registry.h"
#include "support/shared.h"

namespace moelora::model {
namespace {

// Every variant of the graph that there is.
const char* const kFolders[] = {"qwen2-tiny",
                                "qwen3-tiny",
                                "llama3-tiny",
                                "glm-tiny",
                                "decoder-variants/llama-linear",
                                "decoder-variants/llama-dynamic",
                                "decoder-variants/qwen2-yarn",
                                "decoder-variants/qwen3-yarn",
                                "decoder-variants/mistral",
                                "decoder-variants/glm4"};

std::shared_ptr<LlamaImpl> load_llama(const std::string& name, at::ScalarType dtype = at::kFloat) {
  LoadOptions options;
  options.tokenizer = false;
  options.dtype = dtype;
  return std::dynamic_pointer_cast<LlamaImpl>(load(testing::fixtures() / name, options).model);
}

class LlamaGraph : public ::testing::TestWithParam<const char*> {
 protected:
  at::Tensor sequence(int index) const {
    return io::load_safetensors(testing::fixtures() / GetParam() / "golden.safetensors")
        .at("sequence." + std::to_string(index));
  }
  const at::NoGradGuard no_grad_;
};

TEST_P(LlamaGraph, AsksForTheTensorsOfItsCheckpoint) {
  const auto model = load_llama(GetParam());
  ASSERT_NE(model, nullptr);
  const io::NamedTensors found = base_tensors(*model);
  const auto expected = expected_tensors(model->config());
  ASSERT_EQ(found.size(), expected.tensors.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].first, expected.tensors[i].first);
    EXPECT_EQ(found[i].second.sizes().vec(), expected.tensors[i].second) << found[i].first;
  }
  EXPECT_EQ(!tied_names(*model).empty(), model->config().tie_word_embeddings);
}

TEST_P(LlamaGraph, GivesChosenRowsAsAmongAll) {
  const auto model = load_llama(GetParam());
  const at::Tensor ids = at::cat({sequence(0), sequence(1)});
  const auto segments = nn::Segments::from_lengths({sequence(0).size(0), sequence(1).size(0)});
  const nn::RowContext context = nn::RowContext::plain(segments);
  const at::Tensor positions = model->positions(segments);
  const at::Tensor all = model->hidden(ids, positions, context);
  ForwardOptions options;
  options.output_rows = at::tensor({1, static_cast<int>(ids.size(0)) - 1}, at::kLong);
  const at::Tensor some = model->hidden(ids, positions, context, options);
  EXPECT_TRUE(at::allclose(some, all.index_select(0, options.output_rows), 1e-5, 1e-5));
}

TEST_P(LlamaGraph, PackedSequencesDoNotSeeEachOther) {
  const auto model = load_llama(GetParam());
  const auto segments = nn::Segments::from_lengths({sequence(0).size(0), sequence(1).size(0)});
  const at::Tensor packed =
      model->hidden(at::cat({sequence(0), sequence(1)}), model->positions(segments), nn::RowContext::plain(segments));
  const auto alone = nn::Segments::from_lengths({sequence(1).size(0)});
  const at::Tensor second = model->hidden(sequence(1), model->positions(alone), nn::RowContext::plain(alone));
  EXPECT_TRUE(at::allclose(packed.narrow(0, sequence(0).size(0), sequence(1).size(0)), second, 1e-5, 1e-5));
}

TEST_P(LlamaGraph, DecodesWithACacheAsWithout) {
  const auto model = load_llama(GetParam());
  if (model->config().rope.type == LlamaRope::Type::dynamic) {
    // Rows in the cache keep the frequencies of the length that they were written at, as in the reference; the
    // recorded greedy continuation is what this is compared with (tests/verify/sequences_test.cpp).
    return;
  }
  const at::Tensor ids = sequence(0);
  const std::int64_t rows = ids.size(0);
  const auto whole = nn::Segments::from_lengths({rows});
  const at::Tensor all = model->hidden(ids, model->positions(whole), nn::RowContext::plain(whole));
  KvCache cache(model->shape(), 1, rows, at::kFloat, at::kCPU);
  ForwardOptions options;
  options.cache = &cache;
  const std::int64_t prompt = rows - 3;
  const auto first = nn::Segments::from_lengths({prompt});
  nn::RowContext context = nn::RowContext::plain(first);
  at::Tensor last = model->hidden(ids.narrow(0, 0, prompt), model->positions(first), context, options);
  EXPECT_TRUE(at::allclose(last[prompt - 1], all[prompt - 1], 1e-4, 1e-4));
  context = context.next_rows({0});
  for (std::int64_t row = prompt; row < rows; ++row) {
    last = model->hidden(ids.narrow(0, row, 1), model->position_at(0, row), context, options);
    EXPECT_TRUE(at::allclose(last[0], all[row], 1e-4, 1e-4)) << row;
  }
}

TEST_P(LlamaGraph, RoundsInHalfPrecisionOnlyAsFarAsItsType) {
  const auto exact = load_llama(GetParam());
  const auto segments = nn::Segments::from_lengths({sequence(0).size(0)});
  const at::Tensor expected = exact->hidden(sequence(0), exact->positions(segments), nn::RowContext::plain(segments));
  for (const at::ScalarType dtype : {at::kHalf, at::kBFloat16}) {
    const auto rounded = load_llama(GetParam(), dtype);
    const at::Tensor found =
        rounded->hidden(sequence(0), rounded->positions(segments), nn::RowContext::plain(segments));
    EXPECT_EQ(found.scalar_type(), dtype);
    const double bound = dtype == at::kHalf ? 0.02 : 0.15;
    EXPECT_LT((found.to(at::kFloat) - expected).norm().item<double>(), bound * expected.norm().item<double>());
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, LlamaGraph, ::testing::ValuesIn(kFolders), [](const auto& instance) {
  std::string name = instance.param;
  for (char& c : name) {
    c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  }
  return name;
});

TEST(LlamaRotary, YarnScalesQueriesAndKeysByItsAttentionFactor) {
  const auto model = load_llama("decoder-variants/qwen2-yarn");
  const auto segments = nn::Segments::from_lengths({1});
  const nn::Rotary rotary = model->rotary(model->positions(segments), nn::RowContext::plain(segments), at::kFloat);
  EXPECT_FLOAT_EQ(rotary.tables.cos[0][0].item<float>(), static_cast<float>(0.1 * std::log(4.0) + 1.0));
  EXPECT_EQ(llama_attention_factor(load_llama("qwen2-tiny")->config()), 1.0);
}

TEST(LlamaRotary, DynamicFrequenciesAreThoseOfEachSequencesOwnLength) {
  const auto model = load_llama("decoder-variants/llama-dynamic");  // stretches beyond 10 positions
  const auto both = nn::Segments::from_lengths({5, 16});
  const nn::Rotary packed = model->rotary(model->positions(both), nn::RowContext::plain(both), at::kFloat);
  for (const auto& [length, begin] : {std::pair<std::int64_t, std::int64_t>{5, 0}, {16, 5}}) {
    const auto alone = nn::Segments::from_lengths({length});
    const nn::Rotary own = model->rotary(model->positions(alone), nn::RowContext::plain(alone), at::kFloat);
    EXPECT_TRUE(at::equal(packed.tables.cos.narrow(0, begin, length), own.tables.cos));
  }
  const at::Tensor short_row = packed.tables.cos[4];
  const at::Tensor same_position_in_the_long_one = packed.tables.cos[9];
  EXPECT_FALSE(at::allclose(short_row, same_position_in_the_long_one, 1e-4, 1e-4));
}

TEST(LlamaModel, TellsThePlannerWhatAStepTakes) {
  const auto model = load_llama("qwen3-tiny");
  const auto all = model->step_cost({100, 20, 5000}, 0);
  const auto again = model->step_cost({100, 20, 5000}, 2);
  ASSERT_TRUE(all && again);
  EXPECT_GT(all->stored_bytes, again->stored_bytes);
  EXPECT_LT(all->operations, again->operations);
}

}  // namespace
}  // namespace moelora::model
