// One suite over all methods: each trains, resumes bit for bit, evaluates, saves, loads, is refused on another base,
// and merges exactly or says why not.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>

#include "experiment/fixture.h"
#include "io/raises.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/merge.h"
#include "moelora/model/generation.h"

namespace moelora::experiment {
namespace {

namespace fs = std::filesystem;

/// A method on a base.
using Row = std::tuple<fixture::BaseFolder, std::string>;

/// One experiment for all tests on a base: what is trained in it is trained once.
struct Shared {
  explicit Shared(const fixture::BaseFolder& base)
      : config(ExperimentConfig::from_json(fixture::small_experiment(folder.path(), base))) {}
  testing::TemporaryFolder folder;
  ExperimentConfig config;
};

const Shared& shared_on(const fixture::BaseFolder& base) {
  static std::map<std::string, std::unique_ptr<Shared>> made;
  auto& shared = made[base.name];
  if (shared == nullptr) {
    shared = std::make_unique<Shared>(base);
  }
  return *shared;
}

class EveryMethod : public ::testing::TestWithParam<Row> {
 protected:
  EveryMethod()
      : base_folder(std::get<0>(GetParam())),
        method(find_method(std::get<1>(GetParam()))),
        config(shared_on(base_folder).config),
        first(shared_on(base_folder).folder.path() / "first"),
        base(fixture::tiny_base(0.0, base_folder)),
        cell(fixture::cell_of(config, run_id(method.key(), 1))) {
    for (const std::string& needed : method.needs()) {
      const std::string id = run_id(needed, 1);
      run_cell(config, fixture::cell_of(config, id), first, base);
      fs::create_directories(cell_folder(second, id));
      fs::copy(cell_folder(first, id), cell_folder(second, id), fs::copy_options::recursive);
    }
  }
  fs::path product(const fs::path& output) const { return cell_folder(output, cell.id) / "run"; }

  const fixture::BaseFolder& base_folder;
  const Method& method;
  const ExperimentConfig& config;
  const fs::path first;
  testing::TemporaryFolder folder;
  const fs::path second = folder.path() / "second";
  OpenBase base;
  Cell cell;
};

TEST_P(EveryMethod, TrainsResumesBitForBitAndEvaluates) {
  ASSERT_TRUE(run_cell(config, cell, first, base));
  // Stopped after every step and before the answers, then run to the end.
  const std::atomic<bool> stop = true;
  for (int session = 0; session < 3; ++session) {
    ASSERT_FALSE(run_cell(config, cell, second, base, &stop));
  }
  ASSERT_TRUE(run_cell(config, cell, second, base));
  const auto here = read_result(first, cell.id);
  const auto there = read_result(second, cell.id);
  EXPECT_EQ(here.at("validation_loss"), there.at("validation_loss"));
  // One LoRA for each task: a step for each of eight tasks at least.
  EXPECT_EQ(here.at("steps"), method.key() == "lora-single" ? 8 : method.is_trained() ? 3 : 0);
  for (const char* file : {"adapter/adapter.safetensors", "model/model.safetensors"}) {
    ASSERT_EQ(fs::exists(product(first) / file), fs::exists(product(second) / file));
    EXPECT_EQ(fixture::bytes_of(product(first) / file), fixture::bytes_of(product(second) / file)) << file;
  }
  const std::string answers = fixture::bytes_of(cell_folder(first, cell.id) / "predictions.json");
  EXPECT_EQ(answers, fixture::bytes_of(cell_folder(second, cell.id) / "predictions.json"));
  const auto predictions = data::read_records(cell_folder(first, cell.id) / "predictions.json").records;
  const auto references = data::read_records(config.evaluation).records;
  ASSERT_EQ(predictions.size(), references.size());
  for (std::size_t i = 0; i < predictions.size(); ++i) {
    EXPECT_EQ(predictions[i].input, references[i].input);  // whatever the prompt was
  }
}

TEST_P(EveryMethod, LogsFiniteLossesAndAFinishedCellIsNotRunAgain) {
  ASSERT_TRUE(run_cell(config, cell, first, base));
  if (!method.is_trained()) {
    EXPECT_TRUE(read_result(first, cell.id).at("learning_rate").is_null());
  } else {
    std::vector<double> losses;
    for (const auto& entry : fs::recursive_directory_iterator(cell_folder(first, cell.id))) {
      std::ifstream log(entry.path().filename() == "log.jsonl" ? entry.path() : fs::path());
      for (std::string line; std::getline(log, line);) {
        const auto json = nlohmann::ordered_json::parse(line);
        if (json.contains("loss")) {
          losses.push_back(json["loss"]);
        }
      }
    }
    ASSERT_EQ(losses.size(), method.key() == "lora-single" ? 0u : 3u);  // runs of single tasks are not kept
    EXPECT_GT(read_result(first, cell.id).at("trained_parameters").get<std::int64_t>(), 0);
    EXPECT_TRUE(std::all_of(losses.begin(), losses.end(), [](double loss) { return std::isfinite(loss); }));
  }
  const auto written = fs::last_write_time(cell_folder(first, cell.id) / "result.json");
  const OpenBase must_not_open = [](const train::ModelSection&) -> Base { throw Error("opened again"); };
  EXPECT_TRUE(run_cell(config, cell, first, must_not_open));
  EXPECT_EQ(fs::last_write_time(cell_folder(first, cell.id) / "result.json"), written);
}

TEST_P(EveryMethod, LoadsAndIsRefusedOnAnotherBase) {
  ASSERT_TRUE(run_cell(config, cell, first, base));
  const fs::path adapter = product(first) / "adapter";
  if (method.key() == "full") {
    const model::LoadedModel trained = model::load(product(first) / "model");
    EXPECT_NE(model::base_fingerprint(*trained.model), base({}).fingerprint);
    // The run can't be continued on another base. Checkpoints are gone, so a new one is begun and stopped.
    const std::atomic<bool> stop = true;
    EXPECT_FALSE(run_cell(config, cell, second, base, &stop));
    EXPECT_TRUE(io::raises([&] { run_cell(config, cell, second, fixture::tiny_base(0.5, base_folder)); }, "base"));
    return;
  }
  if (!fs::exists(adapter)) {
    EXPECT_FALSE(method.is_trained()) << "only methods without training have no product";
    return;
  }
  const Base same = base({});
  Adapter loaded = load_adapter(*same.model, adapter, same.fingerprint, same.tokenizer->fingerprint());
  EXPECT_EQ(loaded->tasks().size(), 8);
  const Base other = fixture::tiny_base(0.5, base_folder)({});
  EXPECT_TRUE(io::raises(
      [&] { load_adapter(*other.model, adapter, other.fingerprint, other.tokenizer->fingerprint()); }, "another base"));
}

/// Logits of two prompts of a task.
at::Tensor logits_of(const Base& base, const ExperimentConfig& config, const std::string& task,
                     const AdapterImpl* adapter) {
  at::NoGradGuard no_grad;
  model::TokenIds ids;
  std::vector<model::Prompt> prompts;
  for (const data::Record& record : data::read_records(config.data.train).records) {
    if (record.task != task || prompts.size() == 2) {
      continue;
    }
    prompts.push_back(data::encode_prompt(record, *base.tokenizer, config.data.encode));
    ids.insert(ids.end(), prompts.back().ids.begin(), prompts.back().ids.end());
  }
  const nn::Segments segments = model::segments_of(prompts);
  const nn::RowContext context =
      adapter != nullptr
          ? adapter->context(segments, single_tasks(std::vector<std::int64_t>(2, adapter->tasks().index(task))))
          : nn::RowContext::plain(segments);
  return base.model->logits(base.model->hidden(at::tensor(ids, at::kLong), base.model->positions(segments), context));
}

TEST_P(EveryMethod, MergesExactlyOrSaysWhyNot) {
  ASSERT_TRUE(run_cell(config, cell, first, base));
  const fs::path folder_of_adapter = product(first) / "adapter";
  const Base same = base({});
  if (!fs::exists(folder_of_adapter)) {
    EXPECT_FALSE(method.not_mergeable().empty());
    return;
  }
  Adapter adapter = load_adapter(*same.model, folder_of_adapter, same.fingerprint, same.tokenizer->fingerprint());
  std::map<std::string, at::Tensor> before;
  for (const auto& parameter : same.model->named_parameters()) {
    before[parameter.key()] = parameter.value().detach().clone();
  }
  for (const std::string& task : adapter->tasks().names()) {
    if (!method.not_mergeable().empty()) {
      EXPECT_TRUE(io::raises([&] { merge_for_task(adapter, task); }, "NotMergeable"));
      continue;
    }
    const at::Tensor unmerged = logits_of(same, config, task, adapter.get());
    merge_for_task(adapter, task);
    const at::Tensor merged = logits_of(same, config, task, nullptr);
    // Rounding grows with the numbers: a sum of two products against one.
    EXPECT_LE((unmerged - merged).abs().max().item<double>(), std::max(1e-4, 2e-5 * merged.abs().max().item<double>()))
        << task;
    unmerge(adapter);
  }
  for (const auto& parameter : same.model->named_parameters()) {
    EXPECT_TRUE(at::equal(parameter.value(), before.at(parameter.key()))) << parameter.key();
  }
}

TEST_P(EveryMethod, CostsAreMeasured) {
  if (method.key().starts_with("in-context")) {
    for (const Cell& planned : plan_cells(config)) {
      EXPECT_NE(planned.id, "cost/" + method.key()) << "its steps and tokens are the base's";
    }
    return;
  }
  for (const std::string& key : {std::string("lora-full"), method.key()}) {
    run_cell(config, fixture::cell_of(config, run_id(key, 1)), first, base);
  }
  ASSERT_TRUE(run_cell(config, fixture::cell_of(config, "cost/" + method.key()), first, base));
  const auto cost = read_result(first, "cost/" + method.key());
  ASSERT_EQ(cost.contains("ms_per_token"), method.serves_unmerged());
  EXPECT_GT(cost.at(method.serves_unmerged() ? "ms_per_token" : "ms_per_token_merged").get<double>(), 0.0);
  EXPECT_EQ(cost.contains("ms_per_token_merged"), method.not_mergeable().empty());
  EXPECT_EQ(cost.contains("step_ratio"), method.is_trained() && method.key() != "lora-full");
}

std::vector<std::string> all_keys() {
  std::vector<std::string> keys;
  for (const MethodPtr& method : methods()) {
    keys.push_back(method->key());
  }
  return keys;
}

std::string row_name(const ::testing::TestParamInfo<Row>& info) {
  std::string name = std::get<1>(info.param) + "_on_" + std::get<0>(info.param).name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Rows, EveryMethod,
                         ::testing::Combine(::testing::Values(fixture::prefix_lm_base(), fixture::causal_base()),
                                            ::testing::ValuesIn(all_keys())),
                         row_name);

TEST(Methods, HaveKeysOfTheirOwnAndANearMissIsNamed) {
  std::set<std::string> keys;
  for (const MethodPtr& method : methods()) {
    EXPECT_TRUE(keys.insert(method->key()).second) << method->key();
    EXPECT_FALSE(method->title().empty());
    EXPECT_FALSE(method->note().empty());
    for (const std::string& needed : method->needs()) {
      EXPECT_TRUE(keys.contains(needed)) << method->key() << " stands before what it is made of";
    }
  }
  EXPECT_TRUE(io::raises([] { find_method("moelora-dd"); }, "did you mean \"moelora-d\""));
}

TEST(Methods, ParametersAgreeApartFromTheGate) {
  testing::TemporaryFolder folder;
  const auto config = ExperimentConfig::from_json(fixture::small_experiment(folder.path()));
  std::map<std::string, std::int64_t> without_gate;
  for (const char* key : {"lora-full", "moelora-no-gate", "moelora-d", "moelora-s"}) {
    const Cell cell = fixture::cell_of(config, run_id(key, 1));
    run_cell(config, cell, folder.path() / "out", fixture::tiny_base());
    const auto result = read_result(folder.path() / "out", cell.id);
    without_gate[key] =
        result.at("trained_parameters").get<std::int64_t>() - result.at("gate_parameters").get<std::int64_t>();
  }
  for (const auto& [key, count] : without_gate) {
    EXPECT_EQ(count, without_gate.at("lora-full")) << key;
  }
}

}  // namespace
}  // namespace moelora::experiment
