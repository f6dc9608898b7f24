#include "moelora/experiment/grid.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "experiment/fixture.h"
#include "io/raises.h"
#include "moelora/adapter/lorahub.h"
#include "moelora/experiment/collect.h"
#include "moelora/experiment/inputs.h"
#include "moelora/experiment/schedule.h"
#include "moelora/io/json_file.h"

namespace moelora::experiment {
namespace {

using nlohmann::ordered_json;

class Grid : public ::testing::Test {
 protected:
  ExperimentConfig read(const ordered_json& changes = ordered_json::object()) const {
    ordered_json json = fixture::small_experiment(folder.path());
    json.update(changes);
    return ExperimentConfig::from_json(json);
  }
  std::string problem(const ordered_json& changes) const {
    try {
      read(changes);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  void finish(const Cell& cell, const ordered_json& result) const {
    std::filesystem::create_directories(cell_folder(output, cell.id));
    io::write_json_file(cell_folder(output, cell.id) / "result.json", result);
  }
  testing::TemporaryFolder folder;
  std::filesystem::path output = folder.path() / "out";
};

TEST_F(Grid, EveryCellIsNamedOnceAndComesAfterWhatItNeeds) {
  const auto config = read({{"tuning", {{"learning_rates", {1e-3, 1e-2}}}},
                            {"sweeps", {{"num_experts", {1, 2}}, {"rank", {4}}, {"top_k", {1}}}},
                            {"seeds_of", {{"moelora-d", {1, 2, 3}}}},
                            {"new_tasks", {{"tasks", {"MedDG"}}}}});
  std::set<std::string> seen;
  for (const Cell& cell : plan_cells(config)) {
    for (const std::string& needed : cell.needs) {
      EXPECT_TRUE(seen.contains(needed)) << cell.id << " needs " << needed;
    }
    EXPECT_TRUE(seen.insert(cell.id).second) << cell.id;
  }
  for (const char* id : {"tune/moelora-d/rate-0.001", "run/moelora-d/seed-3", "run/base/seed-1", "sweep/rank-4/seed-1",
                         "sweep/top_k-1/seed-1", "new-task/MedDG/seed-1", "cost/full", "run/ties/seed-1"}) {
    EXPECT_TRUE(seen.contains(id)) << id;
  }
  EXPECT_FALSE(seen.contains("tune/base/rate-0.001"));
  EXPECT_FALSE(seen.contains("tune/ties/rate-0.001"));
}

TEST_F(Grid, EveryMethodHasItsFirstSeedBeforeAnyHasItsSecond) {
  const auto config = read({{"methods", {"base", "moelora-d", "lora-full"}},
                            {"seeds", {4, 5}},
                            {"seeds_of", {{"lora-full", {7, 8, 9}}}},
                            {"costs", false}});
  std::vector<std::string> ids;
  for (const Cell& cell : plan_cells(config)) {
    ids.push_back(cell.id);
  }
  EXPECT_EQ(ids, (std::vector<std::string>{"run/moelora-d/seed-4", "run/base/seed-4", "run/lora-full/seed-7",
                                           "run/moelora-d/seed-5", "run/base/seed-5", "run/lora-full/seed-8",
                                           "run/lora-full/seed-9"}));
}

TEST_F(Grid, CellsOfATaskWithAnyNameAreFoundAgain) {
  const auto config = read({{"new_tasks", {{"tasks", {"问/答"}}}}, {"sweeps", {{"rank", {4}}}}});
  std::set<std::string> planned;
  for (const Cell& cell : plan_cells(config)) {
    planned.insert(cell.id);
  }
  EXPECT_TRUE(planned.contains(new_task_id("问/答", 1)));
  EXPECT_TRUE(planned.contains(sweep_id("rank", 4, 1)));
  EXPECT_EQ(new_task_id("问/答", 1).find("问/答"), std::string::npos) << "a folder of its own";
}

TEST_F(Grid, TheRateWithTheLowestFiniteValidationLossIsChosen) {
  const auto config = read({{"tuning", {{"learning_rates", {1e-3, 3e-3, 1e-2}}}}});
  finish(fixture::cell_of(config, "tune/molora/rate-0.001"), {{"validation_loss", 2.0}});
  finish(fixture::cell_of(config, "tune/molora/rate-0.003"), {{"validation_loss", 1.5}});
  finish(fixture::cell_of(config, "tune/molora/rate-0.01"), {{"validation_loss", nullptr}});
  EXPECT_EQ(chosen_rate(config, output, "molora"), 3e-3);
  for (const char* rate : {"0.001", "0.003", "0.01"}) {
    finish(fixture::cell_of(config, std::string("tune/full/rate-") + rate), {{"validation_loss", nullptr}});
  }
  EXPECT_TRUE(io::raises([&] { chosen_rate(config, output, "full"); }, "add smaller ones"));
}

TEST_F(Grid, ARateThatMakesTrainingDivergeIsAResultAndAnotherErrorIsNone) {
  auto config = read({{"tuning", {{"learning_rates", {1e-3, 1e38}}}}, {"methods", {"lora-full"}}, {"costs", false}});
  const Cell cell = fixture::cell_of(config, "tune/lora-full/rate-1e+38");
  ASSERT_TRUE(run_cell(config, cell, output, fixture::tiny_base()));
  const ordered_json result = read_result(output, cell.id);
  EXPECT_TRUE(result.at("validation_loss").is_null());
  EXPECT_NE(result.at("diverged").get<std::string>().find("is not finite"), std::string::npos);
  const OpenBase fails = [](const train::ModelSection&) -> Base { throw Error("the drive is not finite"); };
  const Cell other = fixture::cell_of(config, "tune/lora-full/rate-0.001");
  EXPECT_TRUE(io::raises([&] { run_cell(config, other, output, fails); }, "the drive is not finite"));
}

TEST_F(Grid, ConfigurationsThatDoNotFitAreNamed) {
  EXPECT_NE(problem({{"methods", {"ties"}}}).find("lora-single, which is not listed"), std::string::npos);
  EXPECT_NE(problem({{"methods", {"moelora-q"}}}).find("no method 'moelora-q'"), std::string::npos);
  EXPECT_NE(problem({{"methods", {"base", "base"}}}).find("twice"), std::string::npos);
  EXPECT_NE(problem({{"task_prompts", ""}}).find("lora-full-tp"), std::string::npos);
  EXPECT_NE(problem({{"evaluation", ""}}).find("evaluation"), std::string::npos);
  EXPECT_NE(problem({{"scorer", "promptcbleu"}}).find("did you mean \"promptcblue\""), std::string::npos);
  EXPECT_NE(problem({{"scorer", "absent.json"}}).find("absent.json"), std::string::npos);
  EXPECT_NE(problem({{"seeds", ordered_json::array()}}).find("seeds"), std::string::npos);
  EXPECT_NE(problem({{"seeds_of", {{"moelora-dd", {1}}}}}).find("moelora-dd"), std::string::npos);
  EXPECT_NE(problem({{"tuning", {{"learning_rates", {0.0}}}}}).find("above 0"), std::string::npos);
  EXPECT_NE(problem({{"tunning", ordered_json::object()}}).find("tunning"), std::string::npos);
  EXPECT_NE(problem({{"seeds", {1, 1}}}).find("listed twice"), std::string::npos);
  EXPECT_NE(problem({{"seeds", {-1}}}).find("0 or more"), std::string::npos);
  EXPECT_NE(problem({{"sweeps", {{"rank", {8, 8}}}}}).find("listed twice"), std::string::npos);
  EXPECT_NE(problem({{"methods", {"base"}}, {"sweeps", {{"top_k", {1}}}}}).find("moelora-s"), std::string::npos);
  EXPECT_NE(problem({{"methods", {"base"}}, {"sweeps", {{"rank", {8}}}}}).find("moelora-d"), std::string::npos);
  EXPECT_NE(problem({{"adapter", {{"top_k", 2}}}}).find("sparse_top_k"), std::string::npos);
  EXPECT_NE(problem({{"keep_adapters", false}}).find("keep_adapters: expected true where cells need"),
            std::string::npos);
  EXPECT_NE(problem({{"keep_adapters", false}, {"costs", false}}).find("(task-arithmetic)"), std::string::npos);
  EXPECT_NE(problem({{"data", {{"train", "x"}, {"as_text", true}}}}).find("as_text"), std::string::npos);
  EXPECT_EQ(problem(ordered_json::object()), "");
}

TEST_F(Grid, RatesThatWouldShareAFolderAreAnError) {
  const auto config = read({{"tuning", {{"learning_rates", {1e-3, 1.0000000001e-3}}}}});
  EXPECT_TRUE(io::raises([&] { plan_cells(config); }, "two cells are named"));
}

TEST_F(Grid, InputsAreCheckedBeforeTheLongPart) {
  EXPECT_NO_THROW(check_inputs(read()));
  EXPECT_TRUE(io::raises([&] { check_inputs(read({{"evaluation", "nowhere.json"}})); }, "nowhere.json"));
  EXPECT_TRUE(io::raises([&] { check_inputs(read({{"new_tasks", {{"tasks", {"MedDGG"}}}}})); }, "MedDGG"));
  EXPECT_TRUE(io::raises([&] { check_inputs(read({{"sweeps", {{"num_experts", {3}}}}})); }, "num_experts"));
}

TEST_F(Grid, ACellThatNeedsAnUnfinishedOneSaysSo) {
  const auto config = read();
  EXPECT_TRUE(
      io::raises([&] { run_cell(config, fixture::cell_of(config, run_id("ties", 1)), output, fixture::tiny_base()); },
                 "run/lora-single/seed-1"));
}

TEST_F(Grid, AFailedCellBlocksWhatNeedsItAndNothingElse) {
  const auto config = read({{"methods", {"base", "lora-single", "ties", "lora-full"}}, {"costs", false}});
  const std::vector<Cell> cells = plan_cells(config);
  ScheduleOptions options;
  options.jobs = 2;
  options.quiet = true;
  options.command = [&](const Cell& cell) -> std::vector<std::string> {
    const std::string write = "echo '{\"seconds\": 1}' > " + (cell_folder(output, cell.id) / "result.json").string();
    return {"/bin/sh", "-c", cell.method == "lora-single" ? "echo this went wrong; exit 3" : write};
  };
  const ScheduleResult result = run_cells(cells, output, options);
  EXPECT_EQ(result.failed, std::vector<std::string>{"run/lora-single/seed-1"});
  EXPECT_EQ(result.blocked, std::vector<std::string>{"run/ties/seed-1"});
  EXPECT_EQ(result.finished, 2);
  // Once more: what is finished stays, what failed is tried again.
  options.command = [&](const Cell& cell) -> std::vector<std::string> {
    EXPECT_TRUE(cell.method == "lora-single" || cell.method == "ties") << cell.id;
    return {"/bin/sh", "-c", "echo '{\"seconds\": 1}' > " + (cell_folder(output, cell.id) / "result.json").string()};
  };
  const ScheduleResult again = run_cells(cells, output, options);
  EXPECT_EQ(again.ran, 2);
  EXPECT_EQ(again.finished, 4);
}

TEST_F(Grid, ACellThatEndsWithoutResultHasFailedWhateverItsCode) {
  const auto config = read({{"methods", {"base"}}, {"costs", false}});
  const std::vector<Cell> cells = plan_cells(config);
  ScheduleOptions options;
  options.quiet = true;
  for (const char* end : {"exit 0", "exit 130", "kill -9 $$"}) {
    options.command = [&](const Cell&) -> std::vector<std::string> { return {"/bin/sh", "-c", end}; };
    const ScheduleResult result = run_cells(cells, output, options);
    EXPECT_EQ(result.failed, std::vector<std::string>{"run/base/seed-1"}) << end;
    EXPECT_EQ(result.finished, 0) << end;
  }
}

TEST_F(Grid, StopsWhatRunsWhenAsked) {
  const auto config = read({{"methods", {"base", "lora-full"}}, {"costs", false}});
  const std::atomic<bool> stop = true;
  ScheduleOptions options;
  options.quiet = true;
  options.stop = &stop;
  options.command = [&](const Cell&) -> std::vector<std::string> { return {"/bin/sh", "-c", "exit 3"}; };
  const ScheduleResult result = run_cells(plan_cells(config), output, options);
  EXPECT_TRUE(result.stopped);
  EXPECT_TRUE(result.failed.empty()) << "nothing is started after a stop";
}

TEST_F(Grid, FinishedCellsOfOtherRecordsOrPromptsOrOfAnotherBaseAreNotTaken) {
  const ordered_json changes{{"methods", {"base"}}, {"costs", false}};
  const auto prompts = folder.path() / "prompts.json";
  std::filesystem::copy_file(fixture::source("configs/task_prompts.json"), prompts);
  const auto read_now = [&] {
    ordered_json all = changes;
    all["task_prompts"] = prompts.string();
    return read(all);
  };
  const auto config = read_now();
  const Cell cell = fixture::cell_of(config, run_id("base", 1));
  ASSERT_TRUE(run_cell(config, cell, output, fixture::tiny_base()));
  ordered_json inputs = input_hashes(config);
  const auto refused = [&](const char* text) {
    return io::raises([&] { run_cell(config, cell, output, fixture::tiny_base()); }, text) &&
           io::raises([&] { collect(config, output); }, text);
  };
  // Unchanged: taken.
  EXPECT_TRUE(run_cell(config, cell, output, fixture::tiny_base()));
  EXPECT_NO_THROW(collect(config, output));
  // The base, which whoever resumes looks at.
  inputs["base"] = fixture::tiny_base(1.0)({}).fingerprint;
  EXPECT_TRUE(io::raises([&] { check_inputs_of_finished({cell}, output, inputs); }, "base model"));
  inputs["base"] = fixture::tiny_base()({}).fingerprint;
  EXPECT_NO_THROW(check_inputs_of_finished({cell}, output, inputs));
  // One answer of the evaluation, one of training, the prompts.
  const auto edit = [](const std::filesystem::path& file, const std::string& from, const std::string& to) {
    std::string text = fixture::bytes_of(file);
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos);
    std::ofstream(file, std::ios::binary) << text.replace(at, from.size(), to);
  };
  for (const auto& [file, title] : {std::pair(folder.path() / "dev.json", "evaluation records"),
                                    std::pair(folder.path() / "train.json", "training records")}) {
    const std::string before = fixture::bytes_of(file);
    edit(file, "\"target\":\"", "\"target\":\"x");
    EXPECT_TRUE(refused(title)) << title;
    std::ofstream(file, std::ios::binary) << before;
    EXPECT_NO_THROW(collect(config, output)) << title;
  }
  edit(prompts, "\": \"", "\": \"x");
  EXPECT_TRUE(refused("task prompts"));
  // What an earlier version finished holds no hashes: taken, with a warning.
  ordered_json result = read_result(output, cell.id);
  result.erase("inputs");
  finish(cell, result);
  EXPECT_NO_THROW(collect(config, output));
}

TEST_F(Grid, WorkWithoutCheckpointsIsGivenUpWhenAsked) {
  const auto config = read();
  const std::atomic<bool> stop = true;
  const Cell cell = fixture::cell_of(config, run_id("base", 1));
  EXPECT_FALSE(run_cell(config, cell, output, fixture::tiny_base(), &stop));
  EXPECT_FALSE(is_finished(output, cell));
  EXPECT_TRUE(run_cell(config, cell, output, fixture::tiny_base()));
}

TEST_F(Grid, ANewTaskIsLearnedInFourWaysThatTheResultsHold) {
  if (!lorahub_missing().empty()) {
    GTEST_SKIP() << "one of the ways is missing: " << lorahub_missing();
  }
  const auto config =
      read({{"new_tasks", {{"tasks", {"MedDG"}}, {"examples", 4}, {"steps", 2}, {"learning_rates", {1e-3, 1e-1}}}},
            {"methods", {"lora-single", "moelora-d"}},
            {"costs", false}});
  for (const char* id : {"run/lora-single/seed-1", "new-task/MedDG/seed-1"}) {
    ASSERT_TRUE(run_cell(config, fixture::cell_of(config, id), output, fixture::tiny_base()));
  }
  const Results results = collect(config, output);
  ASSERT_EQ(results.new_tasks.size(), 1u);
  const NewTask& task = results.new_tasks.front();
  ASSERT_EQ(task.entries.size(), 4u);
  EXPECT_EQ(task.references.size(), 1u);
  EXPECT_EQ(task.entries[0].trained_parameters, 0);
  EXPECT_EQ(task.entries[1].trained_parameters, config.adapter.gate.task_embedding_dim);
  EXPECT_EQ(task.entries[2].trained_parameters, 7);  // a weight for each of the other tasks
  for (const NewTaskEntry& entry : task.entries) {
    ASSERT_EQ(entry.runs.size(), 1u) << entry.title;
    EXPECT_EQ(entry.runs[0].predictions.size(), 1u) << entry.title;
  }
}

TEST_F(Grid, AdaptersThatNobodyNeedsAreLeftOutWhenAsked) {
  const auto config = read({{"methods", {"lora-full"}}, {"costs", false}, {"keep_adapters", false}});
  const Cell cell = fixture::cell_of(config, run_id("lora-full", 1));
  ASSERT_TRUE(run_cell(config, cell, output, fixture::tiny_base()));
  const auto folder_of_cell = cell_folder(output, cell.id);
  EXPECT_TRUE(std::filesystem::exists(folder_of_cell / "predictions.json"));
  EXPECT_TRUE(std::filesystem::exists(folder_of_cell / "run" / "log.jsonl"));
  EXPECT_FALSE(std::filesystem::exists(folder_of_cell / "run" / "adapter"));
  EXPECT_TRUE(run_cell(config, cell, output, fixture::tiny_base())) << "a finished cell is not repeated";
  EXPECT_EQ(collect(config, output).methods.front().runs.size(), 1u);
}

TEST_F(Grid, CellsOfSeveralMachinesAreOneExperimentInOneFolder) {
  const auto config = read({{"methods", {"base", "lora-full"}}, {"costs", false}});
  const auto other = folder.path() / "other";
  ASSERT_TRUE(run_cell(config, fixture::cell_of(config, run_id("base", 1)), output, fixture::tiny_base()));
  ASSERT_TRUE(run_cell(config, fixture::cell_of(config, run_id("lora-full", 1)), other, fixture::tiny_base()));
  std::filesystem::copy(other / "cells", output / "cells", std::filesystem::copy_options::recursive);
  const Results results = collect(config, output);
  EXPECT_EQ(results.methods[0].runs.size(), 1u);
  EXPECT_EQ(results.methods[1].runs.size(), 1u);
}

TEST_F(Grid, AnswersOfAnotherFormAreCountedBesideTheMethod) {
  const auto config = read({{"methods", {"base"}}, {"costs", false}});
  const Cell cell = fixture::cell_of(config, run_id("base", 1));
  ASSERT_TRUE(run_cell(config, cell, output, fixture::tiny_base()));
  const auto file = cell_folder(output, cell.id) / "predictions.json";
  std::vector<data::Record> answers = data::read_records(file).records;
  for (data::Record& answer : answers) {
    answer.target = "";
  }
  data::write_records(file, answers);
  const std::string note = collect(config, output).methods.front().note;
  EXPECT_NE(note.find(" of 8 answers are not of the form asked for"), std::string::npos) << note;
}

TEST_F(Grid, TheRankGivesALoraAnotherMethodsNumberOfParameters) {
  for (const auto& [other, rank] :
       std::vector<std::pair<const char*, std::int64_t>>{{"lora-single", 64}, {"moelora-d", 8}}) {
    const auto config = read({{"methods", {"lora-equal"}}, {"costs", false}, {"equal_parameters_to", other}});
    const auto there = output / other;
    const Cell cell = fixture::cell_of(config, run_id("lora-equal", 1));
    ASSERT_TRUE(run_cell(config, cell, there, fixture::tiny_base()));
    const ordered_json result = read_result(there, cell.id);
    const ordered_json& details = result.at("details");
    EXPECT_EQ(details.at("rank"), rank);
    EXPECT_EQ(details.at("parameters"), result.at("trained_parameters"));
    EXPECT_EQ(details.at("parameters") == details.at("its_parameters"), rank == 64)
        << "the gate's are fewer than a rank's";
    const std::string note = collect(config, there).methods.front().note;
    EXPECT_NE(note.find(": rank " + std::to_string(rank) + " (to the nearest)"), std::string::npos) << note;
    EXPECT_EQ(note.find("LoRA (Full) itself") != std::string::npos, rank == 8) << note;
  }
}

TEST_F(Grid, WhatIsNotFinishedIsLeftOpenInTheResults) {
  const auto config = read({{"tuning", {{"learning_rates", {1e-3, 1e-2}}}}, {"sweeps", {{"rank", {4}}}}});
  run_cell(config, fixture::cell_of(config, run_id("base", 1)), output, fixture::tiny_base());
  const Results results = collect(config, output);
  ASSERT_EQ(results.methods.size(), methods().size());
  EXPECT_EQ(results.methods.front().runs.size(), 1u);
  EXPECT_TRUE(results.methods.back().runs.empty());
  EXPECT_EQ(results.sweeps.size(), 1u);
  EXPECT_TRUE(results.sweeps.front().runs.empty());
  EXPECT_GT(results.base_parameters, 0);
  EXPECT_TRUE(results.majority);
}

}  // namespace
}  // namespace moelora::experiment
