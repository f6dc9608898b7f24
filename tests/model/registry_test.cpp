#include "moelora/model/registry.h"

#include <gtest/gtest.h>

#include <fstream>

#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"
#include "moelora/io/json_file.h"
#include "moelora/model/chatglm/load.h"
#include "moelora/model/generation.h"
#include "support/shared.h"
#include "support/tiny_chatglm.h"
#include "support/toy_family.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;

void register_toy_once() {
  static const bool registered = [] {
    register_family(std::make_shared<const testing::ToyFamily>());
    return true;
  }();
  static_cast<void>(registered);
}

std::string error_in(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void expect_all(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << "expected \"" << part << "\" in: " << text;
  }
}

// A folder of the toy family as another program would have written it: with its own names, in half precision.
class ToyFolder : public ::testing::Test {
 protected:
  ToyFolder() {
    register_toy_once();
    io::write_json_file(path() / "config.json", {{"model_type", "toy"}, {"width", 8}, {"layers", 2}, {"own", "kept"}});
    std::ofstream(path() / "bytes.txt") << "one id per byte";
    TensorSource source = random_tensors(7, at::kHalf);
    for (const auto& [name, shape] : testing::ToyModelConfig({}).expected_tensors().tensors) {
      tensors_.emplace_back(name, source(name, shape));
    }
    write();
  }
  void write() { io::save_tensor_folder(path(), tensors_); }
  const fs::path& path() const { return folder_.path(); }

  testing::TemporaryFolder folder_;
  io::NamedTensors tensors_;
};

TEST_F(ToyFolder, OfARegisteredFamilyLoadsByItsConfiguration) {
  LoadOptions options;
  options.fingerprint = true;
  const LoadedModel loaded = load(path(), options);
  EXPECT_EQ(loaded.family->title().name, "Toy");
  EXPECT_NE(std::dynamic_pointer_cast<testing::ToyLM>(loaded.model), nullptr);
  EXPECT_EQ(loaded.tokenizer->fingerprint(), "bytes");
  EXPECT_EQ(loaded.stored_dtype, at::kHalf);
  EXPECT_EQ(loaded.model->dtype(), at::kFloat) << "fp32 on a CPU";
  EXPECT_EQ(loaded.base_fingerprint, io::fingerprint(tensors_)) << "of the weights as they are stored";
  const io::NamedTensors found = base_tensors(*loaded.model);
  ASSERT_EQ(found.size(), tensors_.size());
  for (std::size_t i = 0; i < found.size(); ++i) {  // the graph registers them in the order in which it asks
    EXPECT_EQ(found[i].first, tensors_[i].first);
    EXPECT_TRUE(at::equal(found[i].second, tensors_[i].second.to(at::kFloat))) << found[i].first;
  }
  GenerationOptions short_answers;
  short_answers.max_new_tokens = 3;
  const auto answers = generate(*loaded.model, {loaded.tokenizer->build_prompt({65, 66})}, short_answers);
  EXPECT_EQ(answers.front().ids.size(), 3u);
}

TEST_F(ToyFolder, ComesBackAsItWasSaved) {
  const LoadedModel loaded = load(path());
  testing::TemporaryFolder other;
  loaded.save(other.path());
  const LoadedModel again = load(other.path());
  EXPECT_EQ(again.stored_dtype, at::kHalf) << "the type that the model came in";
  EXPECT_EQ(base_fingerprint(*again.model), base_fingerprint(*loaded.model));
  EXPECT_TRUE(fs::exists(other.path() / "bytes.txt") == false) << "a file that the library does not know";
  EXPECT_EQ(io::read_json_file(other.path() / "config.json")["own"], "kept");
}

TEST_F(ToyFolder, MayLeaveTheHeadOutOrHoldItTwice) {
  EXPECT_TRUE(tied_names(*load(path()).model).empty());
  tensors_.back().second = tensors_.front().second;  // the head, the embedding
  write();
  const LoadedModel twice = load(path());
  EXPECT_EQ(tied_names(*twice.model), std::vector<std::string>{"head.weight"});
  tensors_.pop_back();
  write();
  const LoadedModel once = load(path());
  EXPECT_EQ(tied_names(*once.model), std::vector<std::string>{"head.weight"});
  EXPECT_EQ(base_fingerprint(*once.model), base_fingerprint(*twice.model));
  testing::TemporaryFolder saved;
  once.save(saved.path());
  EXPECT_FALSE(io::TensorFolder(saved.path()).contains("head.weight")) << "one tensor in memory, one in the file";
}

TEST_F(ToyFolder, WithOtherTensorsIsAnErrorThatNamesThem) {
  tensors_[1] = {"blocks.0.mixing.weight", tensors_[1].second};
  tensors_[3].second = at::ones({9});
  write();
  expect_all(error_in([&] { load(path()); }),
             {"missing: blocks.0.mix.weight [8, 8]", "unexpected: blocks.0.mixing.weight",
              "shape of norm.weight: expected [8], found [9]"});
}

TEST_F(ToyFolder, WithoutTokenizerHasItsWeightsAndConfiguration) {
  LoadOptions options;
  options.tokenizer = false;
  EXPECT_EQ(load(path(), options).tokenizer, nullptr);
  EXPECT_EQ(read_config_of(path()).config->summary().front().second, "Toy");
  EXPECT_EQ(stored_dtype(path()), at::kHalf);
  EXPECT_EQ(load_tokenizer(path())->fingerprint(), "bytes");
}

TEST_F(ToyFolder, ShowsTheOutputsOfItsLayers) {
  const LoadedModel loaded = load(path());
  const auto segments = nn::Segments::from_lengths({4}, {2});
  std::vector<std::string> names;
  loaded.model->visit_outputs(at::arange(4), loaded.model->positions(segments), nn::RowContext::plain(segments),
                              [&](const std::string& name, const at::Tensor&) {
                                names.push_back(name);
                                return true;
                              });
  EXPECT_EQ(names, (std::vector<std::string>{"embed", "blocks.0", "blocks.1", "norm", "head"}));
}

TEST(Registry, NamesTheKnownFamiliesWhereItKnowsNone) {
  testing::TemporaryFolder folder;
  io::write_json_file(folder.path() / "config.json",
                      {{"model_type", "mamba"}, {"architectures", {"MambaForCausalLM"}}, {"hidden_size", 8}});
  expect_all(error_in([&] { load(folder.path()); }),
             {(folder.path() / "config.json").string(), "model_type is \"mamba\"", "MambaForCausalLM", "ChatGLM-6B",
              "the first generation"});
  expect_all(error_in([&] {
               read_config(nlohmann::ordered_json{{"a", 1}});
             }),
             {"neither model_type nor architectures"});
  expect_all(error_in([&] {
               read_config(nlohmann::ordered_json{{"model_type", "glm4_moe"}});
             }),
             {"configuration of GLM-4.5", "another one"});
  expect_all(error_in([&] { read_config(nlohmann::ordered_json::array()); }), {"JSON object"});
  expect_all(error_in([&] { load_tokenizer(folder.path()); }), {folder.path().string(), "ChatGLM-6B"});
}

TEST(Registry, TakesEachNameOnce) {
  register_toy_once();
  expect_all(error_in([] { register_family(std::make_shared<const testing::ToyFamily>()); }), {"Toy", "already"});
}

TEST(Registry, MakesNewModelsWithATiedHead) {
  register_toy_once();
  const nlohmann::ordered_json config{{"model_type", "toy"}, {"width", 8}, {"layers", 1}};
  const LoadedModel created = create(config, "anywhere", /*seed=*/3);
  EXPECT_EQ(tied_names(*created.model), std::vector<std::string>{"head.weight"});
  EXPECT_EQ(created.base_fingerprint, base_fingerprint(*create(config, "anywhere", 3).model)) << "the same seed";
  EXPECT_NE(created.base_fingerprint, base_fingerprint(*create(config, "anywhere", 4).model));
}

TEST(Registry, CountsParametersAsTheFamilyDoes) {
  const ChatGlmConfig config;
  for (const bool tied : {true, false}) {
    EXPECT_EQ(expected_tensors(config).parameter_count(tied), config.parameter_count(tied));
  }
}

TEST(Registry, RefusesTheTypedLoaderOnAnotherFamily) {
  register_toy_once();
  testing::TemporaryFolder folder;
  create({{"model_type", "toy"}, {"width", 8}, {"layers", 1}}, folder.path(), 3).save(folder.path());
  expect_all(error_in([&] { load_chatglm(folder.path()); }), {"a model of Toy", "expected ChatGLM-6B's"});
}

}  // namespace
}  // namespace moelora::model
