#pragma once
// A small run that tests change, break off, damage and resume.

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <stdexcept>

#include "moelora/train/checkpoint.h"
#include "train/fixture.h"

namespace moelora::train::fixture {

struct ToyRun {
  std::vector<data::Example> training = toy_examples(40);
  std::vector<data::Example> validation = toy_examples(9);
  model::ChatGlm model = tiny_model();
  Adapter adapter = tiny_adapter(model);
  Callbacks callbacks = quiet();

  TrainInputs inputs(const std::filesystem::path& output, bool resume) {
    return {*model, adapter.get(), training, validation,  {"sum", "echo", "rest"},
            output, resume,        "base",   "tokenizer", {}};
  }
  TrainResult operator()(const std::filesystem::path& output, const TrainingOptions& options, bool resume = false,
                         const std::function<void(TrainInputs&)>& change = {}) {
    TrainInputs all = inputs(output, resume);
    if (change) {
      change(all);
    }
    return train(all, options, callbacks);
  }
};

/// Runs as by ToyRun; afterwards `step` steps are done and the program was killed.
inline void run_until_killed(const std::filesystem::path& output, const TrainingOptions& options, std::int64_t step) {
  ToyRun run;
  run.callbacks.on_step = [step](const StepReport& report) {
    if (report.step == step) {
      throw std::runtime_error("killed");
    }
  };
  EXPECT_THROW(run(output, options), std::runtime_error);
}

/// All files below a folder.
inline std::map<std::string, std::string> files_below(const std::filesystem::path& folder) {
  std::map<std::string, std::string> files;
  if (std::filesystem::exists(folder)) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (entry.is_regular_file()) {
        files[entry.path().lexically_relative(folder).string()] = bytes_of(entry.path());
      }
    }
  }
  return files;
}

inline void flip_bit(const std::filesystem::path& file, std::size_t from_end) {
  std::string bytes = bytes_of(file);
  ASSERT_GT(bytes.size(), from_end) << file;
  bytes[bytes.size() - 1 - from_end] ^= 4;
  std::ofstream(file, std::ios::binary) << bytes;
}

/// What `action` wrote to stderr: warnings.
inline std::string said_by(const std::function<void()>& action) {
  ::testing::internal::CaptureStderr();
  try {
    action();
  } catch (...) {
    ADD_FAILURE() << ::testing::internal::GetCapturedStderr();
    throw;
  }
  return ::testing::internal::GetCapturedStderr();
}

inline nlohmann::ordered_json json_of(const std::filesystem::path& file) {
  return nlohmann::ordered_json::parse(bytes_of(file));
}

}  // namespace moelora::train::fixture
