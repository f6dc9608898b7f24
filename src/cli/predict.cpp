#include "cli/predict.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "moelora/io/atomic_file.h"
#include "moelora/log/log.h"

namespace moelora::cli {
namespace {

// "12/80 answers, 3.4/s, 20 s left": one line that is rewritten on a terminal, a plain line every few seconds elsewhere.
class AnswerProgress {
 public:
  explicit AnswerProgress(std::size_t total) : total_(total) {}
  void advance(std::size_t count) {
    done_ += count;
    const auto now = Clock::now();
    const bool last = done_ == total_;
    if (total_ == 1) {
      return;
    }
    if (!last && now - shown_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10))) {
      return;
    }
    shown_ = now;
    const double seconds = std::max(1e-3, std::chrono::duration<double>(now - start_).count());
    const double rate = static_cast<double>(done_) / seconds;
    char text[128];
    if (last) {
      std::snprintf(text, sizeof text, "%zu answers in %.1f s (%.1f/s)", done_, seconds, rate);
    } else {
      std::snprintf(text, sizeof text, "%zu/%zu answers, %.1f/s, %.0f s left", done_, total_, rate,
                    static_cast<double>(total_ - done_) / rate);
    }
    std::fprintf(stderr, terminal_ ? "\r\033[K%s%s" : "%s%s", text, terminal_ && !last ? "" : "\n");
    std::fflush(stderr);
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::size_t total_;
  std::size_t done_ = 0;
  bool terminal_ = isatty(STDERR_FILENO) != 0;
  Clock::time_point start_ = Clock::now();
  Clock::time_point shown_ = start_;
};

}  // namespace

void add_predict_options(CLI::App& verb, PredictOptions& options) {
  verb.add_option("--batch-size", options.batch_size, "prompts answered together")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--max-source-length", options.encode.max_source_length, "longer prompts are cut to so many tokens")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  auto& generation = options.generation;
  verb.add_option("--max-new-tokens", generation.max_new_tokens, "longest answer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_flag("--sample", generation.sample, "sample instead of greedy decoding");
  verb.add_option("--temperature", generation.temperature, "of --sample")->capture_default_str();
  verb.add_option("--top-k", generation.top_k, "of --sample; 0: all tokens")->capture_default_str();
  verb.add_option("--top-p", generation.top_p, "of --sample; 1: all tokens")->capture_default_str();
  verb.add_option("--seed", generation.seed, "of --sample")->capture_default_str();
}

std::vector<std::string> predict(const Session& session, const std::vector<data::Record>& records,
                                 const PredictOptions& options) {
  const std::vector<std::int64_t> tasks = session.tasks_of(records);
  std::vector<model::TokenIds> prompts;
  prompts.reserve(records.size());
  for (const data::Record& record : records) {
    prompts.push_back(data::encode_prompt(record, *session.tokenizer, options.encode));
  }
  std::vector<std::size_t> order(records.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return prompts[a].size() > prompts[b].size(); });

  model::GenerationOptions generation = options.generation;
  generation.eos_id = session.tokenizer->eos_id();
  const std::int64_t overhead = session.tokenizer->prompt_overhead();
  std::vector<std::string> answers(records.size());
  AnswerProgress progress(records.size());
  model::ChatGlm model = session.model;
  const auto batch = static_cast<std::size_t>(options.batch_size);
  for (std::size_t begin = 0; begin < order.size(); begin += batch) {
    const std::size_t end = std::min(order.size(), begin + batch);
    std::vector<model::TokenIds> batch_prompts;
    std::vector<std::int64_t> contexts;
    std::vector<std::int64_t> batch_tasks;
    for (std::size_t i = begin; i < end; ++i) {
      const model::TokenIds& prompt = prompts[order[i]];
      batch_prompts.push_back(prompt);
      contexts.push_back(session.tokenizer->context_length(static_cast<std::int64_t>(prompt.size()) - overhead));
      batch_tasks.push_back(tasks[order[i]]);
    }
    generation.seed = options.generation.seed + begin;
    const auto generated =
        model::generate(*model, batch_prompts, contexts, generation, session.context_maker(batch_tasks));
    for (std::size_t i = begin; i < end; ++i) {
      answers[order[i]] = session.tokenizer->clean_response(session.tokenizer->decode(generated[i - begin].ids));
    }
    progress.advance(end - begin);
  }
  return answers;
}

void write_predictions(const std::filesystem::path& path, const std::vector<data::Record>& records,
                       const std::vector<std::string>& answers) {
  std::string text;
  for (std::size_t i = 0; i < records.size(); ++i) {
    data::Record record = records[i];
    record.target = answers[i];
    text += data::to_json(record).dump() + "\n";
  }
  io::write_file_atomically(path, text);
}

std::vector<data::Record> read_and_report(const std::filesystem::path& path) {
  data::RecordFile file = data::read_records(path);
  for (const std::string& problem : file.problems) {
    log::warning("left out: " + problem);
  }
  return std::move(file.records);
}

}  // namespace moelora::cli
