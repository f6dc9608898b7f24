// Text to ids with a tokenizer.json: megabytes for each second of one core.

#include <ctime>
#include <fstream>
#include <iostream>
#include <sstream>

#include "cases.h"
#include "moelora/model/hf_tokenizer.h"

namespace moelora::bench {
namespace {

namespace fs = std::filesystem;

std::string text_of_file(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

void tokenizing(const Options& options) {
  // MOELORA_TOKENIZER: a folder with a tokenizer of real size; MOELORA_TOKENIZER_TEXT: what it encodes.
  const char* folder = std::getenv("MOELORA_TOKENIZER");
  const char* given = std::getenv("MOELORA_TOKENIZER_TEXT");
  const fs::path source = MOELORA_BENCH_SOURCE_DIR;
  const model::HfTokenizer tokenizer(folder != nullptr ? fs::path(folder) : source / "tests/fixtures/byte_fallback",
                                     {{"chat_template", nullptr}});
  const std::string text =
      text_of_file(given != nullptr ? fs::path(given) : source / "examples/sample_data/train.json");
  if (text.empty()) {
    std::cerr << "skipped: no text to encode" << std::endl;
    return;
  }
  std::vector<double> rates;
  std::size_t tokens = 0;
  for (int round = 0; round < options.rounds; ++round) {
    tokens = 0;
    const double begin = cpu_seconds();
    for (std::size_t at = 0; at < text.size();) {  // in pieces of the length of records
      const std::size_t end = std::min(text.find('\n', std::min(at + 1000, text.size())), text.size());
      tokens += tokenizer.encode(std::string_view(text).substr(at, end - at)).size();
      at = end;
    }
    rates.push_back(static_cast<double>(text.size()) / 1e6 / (cpu_seconds() - begin));
  }
  report({.row = 20,
          .measure = "text encoded by a tokenizer.json, one core",
          .unit = "MB/s",
          .bar = 5.0,
          .stretch = {},
          .better = Better::larger},
         median_interval(rates), {{"bytes", text.size()}, {"tokens", tokens}, {"pieces", tokenizer.vocab_size()}});
}

}  // namespace moelora::bench
