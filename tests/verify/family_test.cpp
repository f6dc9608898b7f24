// A family of models that the library does not have, registered here: training, generation, merging, saving and
// verifying work on its folders through the ordinary code.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>

#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/merge.h"
#include "moelora/data/example.h"
#include "moelora/eval/evaluate.h"
#include "moelora/io/json_file.h"
#include "moelora/log/log.h"
#include "moelora/model/registry.h"
#include "moelora/train/trainer.h"
#include "moelora/verify/merge_check.h"
#include "moelora/verify/verify.h"
#include "support/shared.h"
#include "support/toy_family.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;

// A toy model with random weights in a folder, and records whose answers follow from their last token.
class AnotherFamily : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    log::set_level(log::Level::warning);
    model::register_family(std::make_shared<const testing::ToyFamily>());
  }
  AnotherFamily() {
    at::set_num_threads(1);
    const model::LoadedModel made =
        model::create({{"model_type", "toy"}, {"width", 16}, {"layers", 2}}, folder_.path(), /*seed=*/5);
    made.save(base());
    std::ofstream(base() / "bytes.txt") << "one id per byte";
    model::LoadOptions options;
    options.fingerprint = true;
    loaded_ = model::load(base(), options);
    for (int i = 0; i < 24; ++i) {
      data::Record record;
      record.task = i % 2 == 0 ? "up" : "down";
      record.input = std::string(1, static_cast<char>('c' + i / 2));
      record.target = record.task == "up" ? "UUU" : "DDD";
      record.sample_id = std::to_string(i);
      records_.push_back(record);
    }
  }
  const fs::path& base() const { return folder_.path(); }
  Adapter new_adapter() {
    MoeLoraConfig config;
    config.rank = 8;
    config.num_experts = 4;
    config.dropout = 0.0;
    config.targets = {"mix"};
    return inject(*loaded_.model, config, TaskNames({"up", "down"}));
  }
  train::TrainResult train(Adapter& adapter, const fs::path& output) {
    std::vector<data::Example> examples;
    for (const data::Record& record : records_) {
      data::EncodeOptions encode;
      encode.max_source_length = 16;
      encode.max_target_length = 16;
      examples.push_back(data::encode_pair(record, adapter->tasks().index(record.task), *loaded_.tokenizer, encode));
    }
    train::TrainingOptions options;
    options.steps = 60;
    options.batch_size = 8;
    options.learning_rate = 2e-2;
    options.warmup_steps = 2;
    options.checkpoint_every = 30;
    options.threads = 1;
    train::Callbacks callbacks;
    callbacks.quiet = true;
    return train::train({*loaded_.model,
                         adapter.get(),
                         examples,
                         {},
                         adapter->tasks().names(),
                         output,
                         false,
                         loaded_.base_fingerprint,
                         loaded_.tokenizer->fingerprint(),
                         {}},
                        options, callbacks);
  }

  testing::TemporaryFolder folder_;
  model::LoadedModel loaded_;
  std::vector<data::Record> records_;
};

TEST_F(AnotherFamily, TrainsAnswersMergesAndSaves) {
  Adapter adapter = new_adapter();
  testing::TemporaryFolder output;
  const train::TrainResult result = train(adapter, output.path() / "run");
  EXPECT_EQ(result.step, 60);
  eject(adapter);
  // What was written fits the base that is loaded anew.
  Adapter trained =
      load_adapter(*loaded_.model, result.result, loaded_.base_fingerprint, loaded_.tokenizer->fingerprint());
  trained->eval();
  const eval::BatchContext context = [&](const std::vector<std::int64_t>& batch) {
    std::vector<std::int64_t> tasks;
    for (const std::int64_t record : batch) {
      tasks.push_back(trained->tasks().index(records_[record].task));
    }
    return for_tasks(trained, single_tasks(tasks));
  };
  eval::EvaluateOptions evaluate;
  evaluate.max_target_length = 3;
  const auto answers = eval::evaluate(*loaded_.model, *loaded_.tokenizer, records_, evaluate, context).predictions;
  for (std::size_t i = 0; i < records_.size(); ++i) {
    EXPECT_EQ(answers[i].target, records_[i].target) << "task " << records_[i].task;
  }
  // Merged, it is an ordinary model of its family.
  Adapter merged = trained;
  Certificate certificate;
  MergeCheckOptions check;
  check.generation.max_new_tokens = 3;
  const model::Prompt prompt = loaded_.tokenizer->build_prompt({'d'});
  EXPECT_TRUE(check_merge(*loaded_.model, merged, "down", {prompt}, check, {}, certificate).passed());
  EXPECT_EQ(certificate.linears, 2);
  testing::TemporaryFolder saved;
  loaded_.save(saved.path());
  const model::LoadedModel again = [&] {
    model::LoadOptions options;
    options.tokenizer = false;
    return model::load(saved.path(), options);
  }();
  const auto answer = model::generate(*again.model, {prompt}, check.generation);
  EXPECT_EQ(loaded_.tokenizer->decode(answer.front().ids), "DDD");
}

// Goldens of the toy, by the formulas that its graph states.
void write_goldens(const fs::path& folder, const model::CausalLM& model) {
  std::map<std::string, at::Tensor> weights;
  for (const auto& [name, tensor] : model::base_tensors(model)) {
    weights[name] = tensor;
  }
  const std::int64_t start = data::fakes::kStart;
  const at::Tensor ids =
      at::tensor({0, 65, 300, int(start), 66, 302, 67, 68, 300, int(start), 69, 302}, at::kLong).view({2, 6});
  const at::Tensor labels =
      at::tensor({-100, -100, -100, int(start), 66, 302, -100, -100, -100, int(start), 69, 302}, at::kLong)
          .view({2, 6});
  std::vector<at::Tensor> hidden{at::embedding(weights["embed.weight"], ids)};
  for (const char* block : {"blocks.0", "blocks.1"}) {
    hidden.push_back(hidden.back() + at::matmul(hidden.back(), weights[std::string(block) + ".mix.weight"].t()));
  }
  hidden.back() = at::layer_norm(hidden.back(), {hidden.back().size(2)}, weights["norm.weight"], weights["norm.bias"]);
  const at::Tensor logits = at::matmul(hidden.back(), weights["head.weight"].t());
  const at::Tensor loss =
      at::cross_entropy_loss(logits.narrow(1, 0, 5).reshape({10, -1}), labels.narrow(1, 1, 5).reshape({10}));
  io::NamedTensors tensors{
      {"batch.input_ids", ids}, {"batch.labels", labels}, {"batch.logits", logits}, {"batch.loss", loss.view({1})}};
  for (std::size_t layer = 0; layer < hidden.size(); ++layer) {
    tensors.emplace_back("batch.hidden." + std::to_string(layer), hidden[layer]);
  }
  io::save_safetensors(folder / "golden.safetensors", tensors);
}

TEST_F(AnotherFamily, IsVerifiedByWhatItsGoldensHold) {
  write_goldens(base(), *loaded_.model);
  const VerifyReport report = verify_folder(base());
  EXPECT_TRUE(report.passed()) << report.to_text();
  EXPECT_EQ(report.comparisons.size(), 7u) << "ids, labels, three hidden states, logits, loss: " << report.to_text();
  at::NoGradGuard no_grad;
  loaded_.model->named_parameters()["blocks.1.mix.weight"].mul_(3.0);
  loaded_.save(base());
  EXPECT_FALSE(verify_folder(base()).passed());
}

}  // namespace
}  // namespace moelora::verify
