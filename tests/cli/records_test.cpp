// The program on files of records, good and bad, and on names that are paths: exit codes and what it says.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "support/shared.h"

namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

using Answer = moelora::testing::Run;

Answer run_program(const std::vector<std::string>& words, const fs::path& standard_input = "/dev/null") {
  return moelora::testing::output_of("cat " + moelora::testing::quoted(standard_input) + " | OMP_WAIT_POLICY=passive " +
                                     moelora::testing::command_of(words) + " 2>&1");
}

class RecordFiles : public testing::Test {
 protected:
  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_.path() / name, std::ios::binary) << text;
    return folder_.path() / name;
  }

  static std::string record(int number, const std::string& task) {
    return ordered_json{{"input", "患者" + std::to_string(number)},
                        {"target", "是"},
                        {"task_type", "cls"},
                        {"task_dataset", task},
                        {"sample_id", "id-" + std::to_string(number)}}
        .dump();
  }

  fs::path records(const std::string& name, const std::vector<std::string>& tasks, int count) const {
    std::string text;
    for (int i = 0; i < count; ++i) {
      text += record(i, tasks[static_cast<std::size_t>(i) % tasks.size()]) + "\n";
    }
    return write(name, text);
  }

  fs::path config(const fs::path& data, const ordered_json& more = ordered_json::object()) const {
    ordered_json json{{"mode", "adapter"},
                      {"model", {{"path", tiny_model().string()}}},
                      {"adapter", {{"rank", 4}, {"num_experts", 2}, {"task_embedding_dim", 8}}},
                      {"data", {{"train", data.string()}, {"validation_size", 0}}},
                      {"training", {{"steps", 2}, {"batch_size", 4}, {"checkpoint_every", 2}, {"threads", 1}}}};
    json.merge_patch(more);
    return write("config.json", json.dump());
  }

  static fs::path tiny_model() { return moelora::testing::fixtures() / "chatglm-tiny"; }

  Answer score(const fs::path& file) const { return run_program({"eval", "--data", file, "--predictions", file}); }

  moelora::testing::TemporaryFolder folder_;
};

TEST_F(RecordFiles, ArraysOneAfterAnotherAreAllScored) {
  const fs::path file =
      write("two.json", "[" + record(1, "X") + "]\n[" + record(2, "X") + ",\n" + record(3, "X") + "]\n");
  const Answer answer = run_program({"inspect", file});
  EXPECT_EQ(answer.code, 0) << answer.text;
  EXPECT_TRUE(answer.has("file of records")) << answer.text;
  EXPECT_TRUE(answer.has("\nrecords" + std::string(16, ' ') + "3\n")) << answer.text;
  const Answer piped = run_program({"eval", "--data", "/dev/stdin", "--predictions", file}, file);
  EXPECT_EQ(piped.code, 0) << piped.text;
  EXPECT_EQ(piped.text, score(file).text);
  const Answer stray = score(write("stray.json", "[" + record(1, "X") + "],\n" + record(2, "X") + "]\n"));
  EXPECT_EQ(stray.code, 2) << stray.text;
  EXPECT_TRUE(stray.has("stray.json:1:87: expected the end of the file")) << stray.text;
}

TEST_F(RecordFiles, OtherFilesAreNamedAsWhatTheyAre) {
  const auto refused = [&](const fs::path& file, const std::string& part) {
    for (const Answer& answer :
         {run_program({"inspect", file}), score(file), run_program({"train", "--config", config(file), "--dry-run"})}) {
      EXPECT_EQ(answer.code, 2) << answer.text;
      EXPECT_TRUE(answer.has(part)) << answer.text;
      EXPECT_FALSE(answer.has("json.exception")) << answer.text;
    }
  };
  refused(write("lfs.json", "version https://git-lfs.github.com/spec/v1\noid sha256:4a4a\nsize 41234567\n"),
          "lfs.json is a Git LFS pointer, not the file itself; run `git lfs pull`");
  refused(write("table.csv", "input,target\na,b\n"), "this is a CSV file (its first line: input,target)");
  refused(write("alpaca.json", R"({"instruction": "a", "input": "", "output": "b"})"
                               "\n"),
          "found \"instruction\", \"input\", \"output\"");
  refused(write("chat.json", R"([{"conversations": []}])"), "found \"conversations\" (array)");
}

TEST_F(RecordFiles, TasksAreListedAndTwinsNamed) {
  const fs::path file = records("train.json", {"MedDG", "MedDG ", "meddg", "CMeIE"}, 16);
  const Answer answer = run_program({"train", "--config", config(file), "--dry-run"});
  EXPECT_EQ(answer.code, 0) << answer.text;
  EXPECT_TRUE(answer.has("4 tasks:")) << answer.text;
  EXPECT_TRUE(answer.has("'CMeIE': 4 for training, 0 for validation")) << answer.text;
  EXPECT_TRUE(answer.has("warning")) << answer.text;
  EXPECT_TRUE(answer.has("'MedDG' (4 records), 'MedDG ' (4 records), 'meddg' (4 records)")) << answer.text;
}

TEST_F(RecordFiles, ATaskWithOneRecordIsTrainedOn) {
  std::string text;
  for (int i = 0; i < 12; ++i) {
    text += record(i, "common") + "\n" + record(100 + i, "rare " + std::to_string(i)) + "\n";
  }
  const fs::path file = write("train.json", text);
  const Answer answer = run_program(
      {"train", "--config", config(file, {{"data", {{"validation_size", 11}}}}), "--output", folder_.path() / "run"});
  EXPECT_EQ(answer.code, 0) << answer.text;
  EXPECT_TRUE(answer.has("13 tasks:")) << answer.text;
}

TEST_F(RecordFiles, ModelFilesThatAreLfsPointersAreNamed) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4a4a\nsize 41234567\n";
  for (const char* name : {"ice_text.model", "config.json", "model.safetensors", "tokenizer_config.json"}) {
    const fs::path model = folder_.path() / "model";
    fs::remove_all(model);
    fs::create_directory(model);
    for (const auto& file : fs::directory_iterator(tiny_model())) {
      const std::string file_name = file.path().filename();
      if (file.path().extension() != ".bin" || std::string(name) != "model.safetensors") {
        fs::copy_file(file.path(), model / file_name);
      }
    }
    fs::remove(model / name);
    write((fs::path("model") / name).string(), pointer);
    const Answer answer = run_program({"generate", "--model", model, "--prompt", "x"});
    EXPECT_EQ(answer.code, 2) << name << answer.text;
    EXPECT_TRUE(answer.has(std::string(name) + " is a Git LFS pointer")) << name << ": " << answer.text;
  }
}

TEST_F(RecordFiles, NoLibrarySpeaksInAnError) {
  const fs::path model = folder_.path() / "model";
  fs::create_directory(model);
  for (const auto& file : fs::directory_iterator(tiny_model())) {
    fs::copy_file(file.path(), model / file.path().filename());
  }
  fs::permissions(model / "ice_text.model", fs::perms::owner_write, fs::perm_options::add);
  write("model/ice_text.model", "no model of pieces");
  const Answer pieces = run_program({"generate", "--model", model, "--prompt", "x"});
  EXPECT_EQ(pieces.code, 2) << pieces.text;
  EXPECT_FALSE(pieces.has(".cc(")) << pieces.text;
  EXPECT_TRUE(pieces.has("expected a SentencePiece model")) << pieces.text;
  const std::vector<std::pair<std::vector<std::string>, std::string>> wrong = {
      {{"eval", "--data", "x", "--predictions", "x", "--demonstration-choice", "foo"},
       "--demonstration-choice: expected one of random similar, found 'foo'"},
      {{"generate", "--model", "x", "--threads", "y", "--prompt", "z"},
       "--threads: expected a whole number from 0 to 4096, found 'y'"},
      {{"train", "--config"}, "--config: its value is missing"},
      {{"inspect", "x", "y"}, "found what no option expects: y"},
      {{"inspect", "/proc/self/fdinfo/x/y"}, "no such file"},
      {{"inspect", std::string(300, 'a')}, "cannot access"},
  };
  for (const auto& [words, part] : wrong) {
    const Answer answer = run_program(words);
    EXPECT_EQ(answer.code, 2) << answer.text;
    EXPECT_TRUE(answer.has(part)) << answer.text;
  }
}

/// Whether anything below a folder has this name.
bool holds(const fs::path& folder, const std::string& name) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().filename() == name) {
      return true;
    }
  }
  return false;
}

/// What lies in a folder, by name.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST_F(RecordFiles, ATaskNamedLikeAPathWritesInsideTheOutputOnly) {
  const fs::path file = records("train.json", {"../escaped", "MedDG"}, 16);
  const Answer trained = run_program({"train", "--config", config(file), "--output", folder_.path() / "run"});
  ASSERT_EQ(trained.code, 0) << trained.text;
  fs::create_directory(folder_.path() / "inside");
  const fs::path merged = folder_.path() / "inside" / "merged";
  const auto before = names_in(folder_.path());
  const Answer answer = run_program({"merge", "--model", tiny_model(), "--adapter", folder_.path() / "run" / "adapter",
                                     "--all-tasks", "--output", merged});
  EXPECT_EQ(answer.code, 0) << answer.text;
  EXPECT_EQ(names_in(folder_.path()), before);
  EXPECT_FALSE(holds(folder_.path(), "escaped"));
  for (const char* folder : {"%2E.%2Fescaped", "MedDG"}) {
    EXPECT_TRUE(fs::exists(merged / folder / "merge_certificate.json")) << folder;
  }
}

TEST_F(RecordFiles, AnExperimentWritesInsideItsOutputOnly) {
  const std::string far = "../../../../../escaped";
  const fs::path file = records("train.json", {far, "MedDG", "CMeIE"}, 24);
  fs::create_directory(folder_.path() / "inside");
  const ordered_json json{
      {"title", "t"},
      {"evaluation", file.string()},
      {"model", {{"path", tiny_model().string()}}},
      {"adapter", {{"rank", 6}, {"num_experts", 3}, {"alpha", 6}}},
      {"data", {{"train", file.string()}, {"validation_size", 6}, {"max_source_length", 32}, {"max_target_length", 8}}},
      {"training",
       {{"steps", 4}, {"batch_size", 4}, {"learning_rate", 0.005}, {"threads", 1}, {"checkpoint_every", 2}}},
      {"methods", {"lora-single", "moelora-d"}},
      {"new_tasks", {{"tasks", {far}}, {"examples", 4}, {"steps", 2}, {"learning_rates", {0.01}}}},
      {"seeds", {1}},
      {"costs", false},
      {"jobs", 1}};
  const fs::path config = write("experiment.json", json.dump());
  const auto before = names_in(folder_.path());
  const Answer answer = run_program({"experiment", "--config", config, "--output", folder_.path() / "inside" / "out"});
  EXPECT_EQ(answer.code, 0) << answer.text;
  EXPECT_EQ(names_in(folder_.path()), before);
  EXPECT_FALSE(holds(folder_.path(), "escaped"));
}

}  // namespace
