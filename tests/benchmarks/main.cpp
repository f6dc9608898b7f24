// moelora_bench: what the library costs beside a yardstick in the same run. One JSON line for each row on stdout,
// progress on stderr; run.sh runs all cases and prints a table.

#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "cases.h"
#include "moelora/io/error.h"

namespace {

using moelora::bench::Options;

struct Case {
  const char* name;
  const char* about;
  void (*run)(const Options&);
};

const Case kCases[] = {
    {"step", "rows 1-3: a training step against the frozen model and against plain operations",
     moelora::bench::training_step},
    {"memory", "row 4: peak memory of a training step", moelora::bench::training_memory},
    {"mix", "rows 5-6: samples per second on real lengths, packed against padded", moelora::bench::length_mix},
    {"experts", "row 7: step time by number of experts", moelora::bench::number_of_experts},
    {"decode", "rows 8-9: greedy decoding against memory's speed, eight tasks against one", moelora::bench::decoding},
    {"merging", "row 10: merging a task into all weights, against copying them", moelora::bench::merging},
    {"scaling", "row 12: time per token by length, and by number of tasks", moelora::bench::scaling},
    {"plan", "row 13: the planner's memory and time against what happens", moelora::bench::planning},
    {"alone", "row 14: a sample packed with others, in any order, on any number of ranks", moelora::bench::alone},
    {"small", "row 15: a small decoder's training step against plain operations", moelora::bench::small_decoder_step},
    {"small_memory", "row 15: its peak memory", moelora::bench::small_decoder_memory},
    {"small_decode", "row 16: a small decoder's greedy decoding against memory's speed",
     moelora::bench::small_decoder_decoding},
    {"tokens", "row 20: text encoded by a tokenizer.json", moelora::bench::tokenizing},
};

std::string list_of_cases() {
  std::string text = "Cases:";
  for (const Case& known : kCases) {
    text += std::string("\n  ") + known.name + std::string(14 - std::string(known.name).size(), ' ') + known.about;
  }
  return text;
}

void run_case(const std::string& name, const Options& options) {
  for (const Case& known : kCases) {
    if (name == known.name) {
      known.run(options);
      return;
    }
  }
  throw moelora::Error("no case '" + name + "'. " + list_of_cases());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Benchmarks of moelora: ratios to a yardstick in the same run, one JSON line for each row."};
  Options options;
  const char* shared = std::getenv("MOELORA_SHARED_DIR");
  options.shared = shared != nullptr ? shared : "../shared";
  options.program = std::filesystem::read_symlink("/proc/self/exe");
  std::vector<std::string> names;
  std::string once, table;
  int times = 2;
  bool hardware = false;
  app.add_option("cases", names, "cases to run, in this order");
  app.add_option("--rounds", options.rounds, "pairs of measurements; doubled where the interval exceeds 5 %")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--most-rounds", options.most_rounds, "pairs that doubling may lead to")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", options.threads, "threads of the computation")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--shared", options.shared, "folder with data/ and fixtures/ that do not ship")->capture_default_str();
  app.add_option("--once", once, "run one piece of work without timing, for its memory or a profiler");
  app.add_option("--times", times, "how often --once runs it")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_flag("--hardware", hardware, "print a line that says what machine this is");
  app.add_option("--table", table, "print the result lines of a file as a table");
  app.footer(list_of_cases() +
             "\nExample:\n  moelora_bench step memory > results.jsonl && moelora_bench --table results.jsonl\n"
             "Run them on a machine that does nothing else.");
  CLI11_PARSE(app, argc, argv);
  try {
    at::set_num_threads(options.threads);
    if (!table.empty()) {
      return moelora::bench::print_table(table);
    }
    if (hardware) {
      std::cout << moelora::bench::hardware().dump() << std::endl;
      return 0;
    }
    if (!once.empty()) {
      nlohmann::ordered_json line = moelora::bench::once(once, times);
      line["peak_memory_bytes"] = moelora::bench::peak_memory_bytes();
      std::cout << line.dump() << std::endl;
      return 0;
    }
    if (names.empty()) {
      std::cout << app.help();
      return 2;
    }
    for (const std::string& name : names) {
      std::cerr << "== " << name << std::endl;
      run_case(name, options);
    }
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 2;
  }
  return 0;
}
