// The program as a user meets it: exit codes, one-line errors, and each verb on small inputs.

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/program.h"
#include "support/shared.h"

namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;
using moelora::testing::fixtures;
using moelora::testing::run_words;
using moelora::testing::TemporaryFolder;
using Outcome = moelora::testing::Run;

std::string tiny_model() { return (fixtures() / "chatglm-tiny").string(); }

// Three tasks of a few short records in the tiny tokenizer's alphabet.
fs::path write_records(const fs::path& file) {
  std::ofstream out(file);
  for (int i = 0; i < 24; ++i) {
    const std::string task = i % 3 == 0 ? "one" : i % 3 == 1 ? "two" : "three";
    out << ordered_json{{"input", "患者" + std::to_string(i)},
                        {"target", i % 3 == 0 ? "是" : "否"},
                        {"answer_choices", {"是", "否"}},
                        {"task_type", "cls"},
                        {"task_dataset", task},
                        {"sample_id", std::to_string(i)}}
               .dump()
        << "\n";
  }
  return file;
}

fs::path write_config(const fs::path& file, const fs::path& data) {
  std::ofstream(file) << "// a comment\n"
                      << ordered_json{{"mode", "adapter"},
                                      {"model", {{"path", tiny_model()}}},
                                      {"adapter", {{"rank", 4}, {"num_experts", 2}, {"task_embedding_dim", 8}}},
                                      {"data", {{"train", data.string()}, {"validation_size", 3}}},
                                      {"training", {{"steps", 4}, {"batch_size", 4}, {"checkpoint_every", 2}}}}
                             .dump(2);
  return file;
}

TEST(Program, AnswersHelpAndVersion) {
  EXPECT_EQ(run_words({"--version"}).code, 0);
  EXPECT_EQ(run_words({"--help"}).code, 0);
  for (const char* verb : {"train", "eval", "generate", "merge", "export", "import", "inspect", "verify"}) {
    const Outcome help = run_words({verb, "--help"});
    EXPECT_EQ(help.code, 0) << verb;
    EXPECT_NE(help.text.find("Example"), std::string::npos) << verb << " --help shows no example";
  }
}

TEST(Program, PlansARunWithoutTouchingAnything) {
  const TemporaryFolder folder;
  const fs::path config = write_config(folder.path() / "config.json", write_records(folder.path() / "data.json"));
  const Outcome dry = run_words({"train", "--config", config, "--dry-run", "--output", folder.path() / "run"});
  EXPECT_EQ(dry.code, 0) << dry.text;
  for (const char* word : {"peak memory", "time of a step", "time of all steps"}) {
    EXPECT_NE(dry.text.find(word), std::string::npos) << dry.text;
  }
  EXPECT_FALSE(fs::exists(folder.path() / "run"));
  const Outcome plan = run_words({"inspect", "--plan", config});
  EXPECT_EQ(plan.code, 0) << plan.text;
  EXPECT_NE(plan.text.find("peak memory"), std::string::npos) << plan.text;
  EXPECT_EQ(run_words({"train", "--config", config}).code, 2) << "a run without --output";
}

TEST(Program, EndsWithTwoOnBadInputAndSaysWhyInOneLine) {
  const TemporaryFolder folder;
  const std::string never = folder.path() / "never";
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"fly"},
      {"train", "--no-such-option"},
      {"inspect", "/no/such/path"},
      {"verify", "/no/such/path"},
      {"generate", "--model", "/no/such/path", "--prompt", "x"},
      {"generate", "--model", tiny_model()},
      {"generate", "--model", tiny_model(), "--prompt", "x", "--dtype", "int3"},
      {"eval", "--data", "/no/such/path", "--predictions", "/no/such/path"},
      {"merge", "--model", tiny_model(), "--adapter", tiny_model(), "--task", "x", "--output", never},
      {"export", "--adapter", tiny_model(), "--output", never},
      {"import", "--adapter", tiny_model(), "--output", never},
      {"train", "--config", "/no/such/path", "--output", never},
  };
  for (const auto& words : wrong) {
    const Outcome outcome = run_words(words);
    EXPECT_EQ(outcome.code, 2) << outcome.text;
    EXPECT_EQ(outcome.text.rfind("moelora", 0), 0u) << outcome.text;
    EXPECT_NE(outcome.text.find("error: "), std::string::npos) << outcome.text;
  }
  EXPECT_FALSE(fs::exists(never));
}

TEST(Program, SuggestsTheNearestConfigurationKey) {
  const TemporaryFolder folder;
  const fs::path data = write_records(folder.path() / "data.json");
  const fs::path config = write_config(folder.path() / "config.json", data);
  const Outcome outcome =
      run_words({"train", "--config", config, "--set", "training.learning_rat=1", "--output", folder.path() / "run"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.text.find("learning_rate"), std::string::npos) << outcome.text;
}

TEST(Program, PredictsAnAdapterOnTheLinearsThatAModelHas) {
  const Outcome outcome = run_words({"inspect", fixtures() / "llama3-tiny" / "config.json"});
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_NE(outcome.text.find("gate_proj"), std::string::npos) << outcome.text;
  EXPECT_EQ(outcome.text.find("one tensor"), std::string::npos) << "its head is its own: " << outcome.text;
}

TEST(Program, PredictsTheSizeOfAnAdapterOnChatGlm6b) {
  const Outcome outcome = run_words({"inspect", fs::path(MOELORA_SOURCE_DIR) / "configs" / "chatglm-6b-v100.json"});
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  for (const char* number : {"29,360,128", "6,173,286,400", "0.476 %", "1,024"}) {
    EXPECT_NE(outcome.text.find(number), std::string::npos) << number << " is missing in\n" << outcome.text;
  }
}

// A shape whose fp32 form no machine holds; its weights need not be there for the choice.
TEST(Program, ComputesAsStoredWhereFp32DoesNotFit) {
  const TemporaryFolder folder;
  for (const char* name : {"ice_text.model", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin",
                           "pytorch_model.bin.index.json"}) {
    fs::copy_file(fixtures() / "chatglm-tiny" / name, folder.path() / name);
  }
  ordered_json config = ordered_json::parse(std::ifstream(fixtures() / "chatglm-tiny" / "config.json"));
  config["inner_hidden_size"] = 4'000'000'000;
  std::ofstream(folder.path() / "config.json") << config;
  const Outcome outcome = run_words({"generate", "--model", folder.path(), "--prompt", "x", "--device", "cpu"});
  EXPECT_EQ(outcome.code, 2);  // the weights are those of the small shape
  EXPECT_NE(outcome.text.find("computing in float16, as it is stored"), std::string::npos) << outcome.text;
  const Outcome given =
      run_words({"generate", "--model", folder.path(), "--prompt", "x", "--device", "cpu", "--dtype", "float32"});
  EXPECT_EQ(given.text.find("computing in float16"), std::string::npos) << given.text;
}

TEST(Program, AsksWithTaskPromptsAndDemonstrations) {
  const TemporaryFolder folder;
  const fs::path data = write_records(folder.path() / "data.json");
  const fs::path prompts = folder.path() / "prompts.json";
  std::ofstream(prompts) << R"({"one": "是", "two": "否", "three": "是否"})";
  const fs::path scores = folder.path() / "scores";
  const auto shown = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"eval", "--model", tiny_model(), "--data", data, "--max-new-tokens", "2"};
    words.insert(words.end(), more.begin(), more.end());
    return run_words(words);
  };
  const Outcome both = shown({"--output", scores, "--task-prompts", prompts, "--demonstrations", "2",
                              "--demonstrations-from", data, "--demonstration-choice", "similar"});
  EXPECT_EQ(both.code, 0) << both.text;
  std::ifstream predictions(scores / "predictions.json");
  std::ifstream references(data);
  std::string said;
  std::string truth;
  int count = 0;
  for (; std::getline(predictions, said) && std::getline(references, truth); ++count) {
    EXPECT_EQ(ordered_json::parse(said)["input"], ordered_json::parse(truth)["input"]);
  }
  EXPECT_EQ(count, 24);
  std::stringstream page;
  page << std::ifstream(scores / "report.html").rdbuf();
  EXPECT_NE(page.str().find("2 similar per question"), std::string::npos);

  const fs::path none = folder.path() / "none";
  EXPECT_EQ(shown({"--output", none, "--demonstrations", "2"}).code, 2);
  EXPECT_EQ(shown({"--output", none, "--demonstrations-from", data}).code, 2);
  std::ofstream(prompts) << R"({"one": "是"})";
  const Outcome unknown = shown({"--output", none, "--task-prompts", prompts});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_NE(unknown.text.find("known: one"), std::string::npos) << unknown.text;
  EXPECT_EQ(run_words({"generate", "--model", tiny_model(), "--prompt", "患者", "--task", "one", "--task-prompts",
                       prompts, "--max-new-tokens", "2"})
                .code,
            0);
  EXPECT_EQ(run_words({"generate", "--model", tiny_model(), "--prompt", "患者", "--task", "two", "--task-prompts",
                       prompts, "--max-new-tokens", "2"})
                .code,
            2);
  const fs::path config = write_config(folder.path() / "config.json", data);
  const std::string set = "data.task_prompts=" + prompts.string();
  EXPECT_EQ(run_words({"train", "--config", config, "--set", set, "--dry-run"}).code, 2);
  std::ofstream(prompts) << R"({"default": "是"})";
  EXPECT_EQ(run_words({"train", "--config", config, "--set", set, "--dry-run"}).code, 0);
}

TEST(Program, TrainsEvaluatesMergesAndExports) {
  const TemporaryFolder folder;
  const fs::path data = write_records(folder.path() / "data.json");
  const fs::path config = write_config(folder.path() / "config.json", data);
  const fs::path run = folder.path() / "run";
  const Outcome trained = run_words({"train", "--config", config, "--output", run});
  ASSERT_EQ(trained.code, 0) << trained.text;
  for (const char* file : {"adapter/adapter.json", "log.jsonl", "report.html", "config.json", "checkpoints/step-4"}) {
    EXPECT_TRUE(fs::exists(run / file)) << file;
  }
  EXPECT_EQ(run_words({"train", "--config", config, "--output", run}).code, 2) << "a run's folder was overwritten";

  const std::string adapter = run / "adapter";
  const Outcome evaluated =
      run_words({"eval", "--model", tiny_model(), "--adapter", adapter, "--data", data, "--output",
                 folder.path() / "scores", "--majority", data, "--max-new-tokens", "4"});
  EXPECT_EQ(evaluated.code, 0) << evaluated.text;
  EXPECT_TRUE(fs::exists(folder.path() / "scores" / "predictions.json"));
  const Outcome rescored = run_words({"eval", "--predictions", folder.path() / "scores" / "predictions.json", "--data",
                                      data, "--json", folder.path() / "scores.json"});
  EXPECT_EQ(rescored.code, 0) << rescored.text;
  EXPECT_TRUE(fs::exists(folder.path() / "scores.json"));

  const Outcome merged = run_words({"merge", "--model", tiny_model(), "--adapter", adapter, "--all-tasks", "--output",
                                    folder.path() / "merged", "--check", data, "--max-new-tokens", "4"});
  EXPECT_EQ(merged.code, 0) << merged.text;
  for (const char* task : {"one", "two", "three"}) {
    EXPECT_TRUE(fs::exists(folder.path() / "merged" / task / "merge_certificate.json")) << task;
  }
  EXPECT_EQ(run_words({"inspect", folder.path() / "merged" / "two"}).code, 0);
  EXPECT_EQ(run_words({"inspect", adapter}).code, 0);
  const Outcome answered =
      run_words({"generate", "--model", folder.path() / "merged" / "two", "--prompt", "患者", "--max-new-tokens", "4"});
  EXPECT_EQ(answered.code, 0) << answered.text;
  const Outcome unknown =
      run_words({"generate", "--model", tiny_model(), "--adapter", adapter, "--task", "tow", "--prompt", "患者"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_NE(unknown.text.find("two"), std::string::npos) << unknown.text;

  const Outcome exported = run_words(
      {"export", "--adapter", adapter, "--format", "peft", "--task", "one", "--output", folder.path() / "peft"});
  EXPECT_EQ(exported.code, 0) << exported.text;
  const Outcome imported =
      run_words({"import", "--adapter", folder.path() / "peft", "--output", folder.path() / "imported"});
  EXPECT_EQ(imported.code, 0) << imported.text;
  EXPECT_EQ(run_words({"inspect", folder.path() / "imported"}).code, 0);
}

TEST(Program, TrainsAPrefixAloneThatIsServedUnmerged) {
  const TemporaryFolder folder;
  const fs::path data = write_records(folder.path() / "data.json");
  const fs::path config = write_config(folder.path() / "config.json", data);
  const std::vector<std::string> settings{"--set", "adapter.targets=[]", "--set",
                                          R"(adapter.prefix={"length": 4, "projection": true, "dropout": 0.1})"};
  const auto train_with = [&](std::vector<std::string> words) {
    words.insert(words.end(), settings.begin(), settings.end());
    return run_words(words);
  };
  const Outcome planned = train_with({"train", "--config", config, "--dry-run"});
  EXPECT_EQ(planned.code, 0) << planned.text;
  const Outcome trained = train_with({"train", "--config", config, "--output", folder.path() / "run"});
  ASSERT_EQ(trained.code, 0) << trained.text;
  const std::string adapter = folder.path() / "run" / "adapter";
  const Outcome inspected = run_words({"inspect", adapter});
  EXPECT_EQ(inspected.code, 0) << inspected.text;
  EXPECT_NE(inspected.text.find("prefix parameters"), std::string::npos) << inspected.text;
  const Outcome answered = run_words({"generate", "--model", tiny_model(), "--adapter", adapter, "--task", "two",
                                      "--prompt", "患者", "--max-new-tokens", "4"});
  EXPECT_EQ(answered.code, 0) << answered.text;
  for (const Outcome& refused :
       {run_words({"merge", "--model", tiny_model(), "--adapter", adapter, "--task", "two", "--check", data}),
        run_words({"export", "--adapter", adapter, "--task", "two", "--output", folder.path() / "peft"})}) {
    EXPECT_EQ(refused.code, 2);
    EXPECT_NE(refused.text.find("NotMergeable"), std::string::npos) << refused.text;
  }
}

TEST(Program, AddsATaskToATrainedAdapter) {
  const TemporaryFolder folder;
  const fs::path data = write_records(folder.path() / "data.json");
  const std::string config = write_config(folder.path() / "config.json", data);
  const std::string two = folder.path() / "two-tasks";
  const Outcome first =
      run_words({"train", "--config", config, "--set", "data.without_tasks=[\"three\"]", "--output", two});
  ASSERT_EQ(first.code, 0) << first.text;
  const auto new_task = [&](const std::string& tasks, const std::vector<std::string>& more) {
    std::vector<std::string> words{"train",
                                   "--config",
                                   config,
                                   "--set",
                                   "mode=new_task",
                                   "adapter=null",
                                   "adapter_from=" + two + "/adapter",
                                   "data.tasks=" + tasks,
                                   "data.max_records=5",
                                   "data.validation_size=0"};
    words.insert(words.end(), more.begin(), more.end());
    return run_words(words);
  };
  const Outcome plan = new_task("[\"three\"]", {"--dry-run"});
  EXPECT_EQ(plan.code, 0) << plan.text;
  const Outcome known = new_task("[\"two\"]", {"--output", folder.path() / "never"});
  EXPECT_EQ(known.code, 2) << known.text;
  EXPECT_NE(known.text.find("found records of two"), std::string::npos) << known.text;
  const fs::path run = folder.path() / "run";
  const Outcome trained = new_task("[\"three\"]", {"--output", run});
  ASSERT_EQ(trained.code, 0) << trained.text;
  std::ifstream description(run / "adapter" / "adapter.json");
  EXPECT_EQ(ordered_json::parse(description)["tasks"].size(), 3u);
  const Outcome inspected = run_words({"inspect", run / "config.json"});
  EXPECT_EQ(inspected.code, 0) << inspected.text;
  EXPECT_NE(inspected.text.find("8 (the new task's embedding)"), std::string::npos) << inspected.text;
  const Outcome merged = run_words({"merge", "--model", tiny_model(), "--adapter", run / "adapter", "--task", "three",
                                    "--output", folder.path() / "merged"});
  EXPECT_EQ(merged.code, 0) << merged.text;
}

TEST(Program, ShowsEveryKeyOfAnExperimentAndNamesTheNearestOfAWrongOne) {
  const TemporaryFolder folder;
  const Outcome shown = run_words({"experiment", "--print-config"});
  EXPECT_EQ(shown.code, 0) << shown.text;
  for (const char* part :
       {"  // top_k of the method moelora-s\n  \"sparse_top_k\": 2", "\"in_context\": {", "\"jobs\": 0"}) {
    EXPECT_NE(shown.text.find(part), std::string::npos) << part;
  }
  const fs::path config = folder.path() / "experiment.json";
  std::ofstream(config) << shown.text;
  const Outcome listed = run_words({"experiment", "--config", config, "--list"});
  EXPECT_EQ(listed.code, 0) << "what is printed can be run: " << listed.text;
  for (const auto& [assignment, problem] : std::vector<std::pair<std::string, std::string>>{
           {"lorahub.evaluation=3", "lorahub.evaluation: unknown key, did you mean \"evaluations\"?"},
           {"cost_rounds=few", "cost_rounds: expected an integer, found \"few\""}}) {
    const Outcome wrong = run_words({"experiment", "--config", config, "--list", "--set", assignment});
    EXPECT_EQ(wrong.code, 2) << assignment;
    EXPECT_NE(wrong.text.find(problem), std::string::npos) << wrong.text;
  }
  const Outcome without = run_words({"experiment", "--list"});
  EXPECT_EQ(without.code, 2);
  EXPECT_NE(without.text.find("--config is required"), std::string::npos) << without.text;
  const Outcome help = run_words({"experiment", "--help"});
  EXPECT_NE(help.text.find("Methods: base, in-context-random,"), std::string::npos) << help.text;
}

TEST(Program, ComparesMethodsAndGoesOnWhereItWasStopped) {
  const TemporaryFolder folder;
  const fs::path data = write_records(folder.path() / "data.json");
  const std::string config = folder.path() / "experiment.json";
  std::ofstream(config) << ordered_json{
      {"model", {{"path", tiny_model()}}},
      {"adapter", {{"rank", 4}, {"num_experts", 2}, {"task_embedding_dim", 8}}},
      {"data", {{"train", data.string()}, {"validation_size", 3}, {"max_target_length", 4}}},
      {"evaluation", data.string()},
      {"training", {{"steps", 3}, {"batch_size", 4}, {"checkpoint_every", 1}}},
      {"methods", {"base", "lora-full", "moelora-d"}},
      {"tuning", {{"learning_rates", {1e-3, 1e-2}}}},
      {"jobs", 2}};
  const std::string output = folder.path() / "out";
  const auto experiment = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"experiment", "--config", config});
    return run_words(more);
  };
  const Outcome listed = experiment({"--list"});
  EXPECT_EQ(listed.code, 0) << listed.text;
  EXPECT_NE(listed.text.find("to do     run/moelora-d/seed-1"), std::string::npos) << listed.text;
  const Outcome cell = experiment({"--output", output, "--cell", "run/moelora-d/seed-1"});
  EXPECT_EQ(cell.code, 2) << cell.text;
  EXPECT_NE(cell.text.find("needs tune/moelora-d/rate-0.001"), std::string::npos) << cell.text;
  const Outcome ran = experiment({"--output", output, "--resume"});
  ASSERT_EQ(ran.code, 0) << ran.text;
  EXPECT_NE(ran.text.find("MOELoRA (D)"), std::string::npos) << ran.text;
  for (const char* file : {"results.md", "results.json", "results.html", "config.json"}) {
    EXPECT_TRUE(fs::exists(fs::path(output) / file)) << file;
  }
  const Outcome taken = experiment({"--output", output});
  EXPECT_EQ(taken.code, 2) << taken.text;
  const Outcome changed = experiment({"--output", output, "--resume", "--set", "training.steps=4"});
  EXPECT_EQ(changed.code, 2) << changed.text;
  EXPECT_NE(changed.text.find("training.steps: 3, now 4"), std::string::npos) << changed.text;
  const Outcome again = experiment({"--output", output, "--resume"});
  EXPECT_EQ(again.code, 0) << again.text;
  EXPECT_EQ(again.text.find("tune/"), std::string::npos) << "finished cells are repeated: " << again.text;
  const Outcome unknown = experiment({"--output", folder.path() / "x", "--set", "methods=[\"lora-ful\"]"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_NE(unknown.text.find("lora-full"), std::string::npos) << unknown.text;
  EXPECT_FALSE(fs::exists(folder.path() / "x"));
}

TEST(Program, ReadsAdaptersOfOtherPrograms) {
  const TemporaryFolder folder;
  for (const char* name : {"moelora-tiny", "lora-tiny"}) {
    EXPECT_EQ(run_words({"inspect", fixtures() / name}).code, 0) << name;
    const Outcome imported = run_words({"import", "--adapter", fixtures() / name, "--output", folder.path() / name});
    EXPECT_EQ(imported.code, 0) << imported.text;
  }
}

TEST(Program, VerifiesTheShippedGoldens) {
  EXPECT_EQ(run_words({"verify", tiny_model()}).code, 0);
  EXPECT_EQ(run_words({"verify", fixtures() / "ptuning-tiny" / "projection"}).code, 0);
  EXPECT_EQ(run_words({"verify", fixtures() / "tokenizer"}).code, 0);
}

}  // namespace
