#pragma once
// Made-up records in files, and the program run on them.

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "cli/program.h"
#include "support/shared.h"

namespace moelora::testing::questions {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

using Result = testing::Run;

/// What bash makes of the command, in which $MOELORA is the program.
inline Result shell(const std::string& command) {
  setenv("MOELORA", MOELORA_PROGRAM, 1);
  setenv("OMP_NUM_THREADS", "1", 1);
  return testing::output_of("exec bash -c " + testing::quoted("{ " + command + "\n} 2>&1"));
}

/// The program with these words; none of them holds a quote.
inline std::string command_of(const std::vector<std::string>& words) {
  std::string command = "\"$MOELORA\"";
  for (const std::string& word : words) {
    command += " \"" + word + "\"";
  }
  return command;
}

inline Result run(const std::vector<std::string>& words) { return shell(command_of(words)); }

inline std::string base_model() { return (fixtures() / "chatglm-tiny").string(); }

inline std::string content_of(const fs::path& file) {
  std::stringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

inline std::vector<ordered_json> lines_of(const fs::path& file) {
  std::vector<ordered_json> lines;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(ordered_json::parse(line));
  }
  return lines;
}

inline ordered_json question(int number, const std::string& input) {
  return {{"input", input},     {"target", "是"},        {"answer_choices", {"是", "否"}},
          {"task_type", "cls"}, {"task_dataset", "one"}, {"sample_id", "q-" + std::to_string(number)}};
}

inline std::vector<ordered_json> questions(int count) {
  std::vector<ordered_json> records;
  for (int i = 0; i < count; ++i) {
    records.push_back(question(i, "患者" + std::to_string(i * 37) + (i % 3 == 0 ? "发热咳嗽" : "头痛")));
  }
  return records;
}

inline fs::path write_lines(const fs::path& file, const std::vector<ordered_json>& records) {
  std::ofstream stream(file);
  for (const ordered_json& record : records) {
    stream << record.dump() << "\n";
  }
  return file;
}

inline bool says(const Result& result, const std::string& text) { return result.text.find(text) != std::string::npos; }

}  // namespace moelora::testing::questions
