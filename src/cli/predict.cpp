#include "cli/predict.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/numbers.h"
#include "moelora/io/json_file.h"
#include "moelora/io/readable.h"
#include "moelora/io/utf8.h"
#include "moelora/log/log.h"
#include "moelora/train/prompt_form.h"

namespace moelora::cli {
namespace {

// One line that is rewritten on a terminal, a plain line every ten seconds elsewhere; nothing for a single answer.
class AnswerProgress {
 public:
  void operator()(const eval::EvaluateProgress& at) {
    const auto now = Clock::now();
    const bool last = at.done == at.total;
    if (at.total == 1 ||
        (!last && now - shown_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10)))) {
      return;
    }
    shown_ = now;
    const double seconds = std::max(1e-3, std::chrono::duration<double>(now - start_).count());
    const double left = seconds / static_cast<double>(at.done) * static_cast<double>(at.total - at.done);
    std::fprintf(stderr, "%s%lld/%lld answers, %.0f tokens/s, %s %s%s", terminal_ ? "\r\033[K" : "",
                 static_cast<long long>(at.done), static_cast<long long>(at.total),
                 static_cast<double>(at.tokens) / seconds, last ? "in" : "ETA",
                 io::duration_text(last ? seconds : left).c_str(), terminal_ && !last ? "" : "\n");
    std::fflush(stderr);
  }

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_ = isatty(STDERR_FILENO) != 0;
  Clock::time_point start_ = Clock::now();
  Clock::time_point shown_ = start_;
};

// Adds the answers of the other ranks to this one's.
void share_answers(eval::Evaluation& evaluation, train::ProcessGroup& ranks) {
  nlohmann::ordered_json own{{"tokens", evaluation.tokens}, {"unfinished", evaluation.unfinished}};
  own["answers"] = nlohmann::ordered_json::array();
  for (const std::int64_t record : evaluation.answered) {
    own["answers"].push_back({record, evaluation.predictions[static_cast<std::size_t>(record)].target});
  }
  evaluation.tokens = 0;
  evaluation.unfinished = 0;
  evaluation.answered.clear();
  for (const std::string& text : ranks.gather(own.dump())) {
    const auto part = nlohmann::ordered_json::parse(text);
    evaluation.tokens += part.at("tokens").get<std::int64_t>();
    evaluation.unfinished += part.at("unfinished").get<std::int64_t>();
    for (const auto& answer : part.at("answers")) {
      evaluation.answered.push_back(answer.at(0).get<std::int64_t>());
      evaluation.predictions[static_cast<std::size_t>(evaluation.answered.back())].target =
          answer.at(1).get<std::string>();
    }
  }
  std::sort(evaluation.answered.begin(), evaluation.answered.end());
}

// Greedy decoding has no use for them: who gives them expects sampled answers.
void warn_of_unused_options(const CLI::App& verb, bool sample) {
  std::string unused;
  for (const char* name : {"--temperature", "--top-k", "--top-p"}) {
    if (!sample && verb.count(name) > 0) {
      unused += (unused.empty() ? "" : ", ") + std::string(name);
    }
  }
  if (!unused.empty()) {
    log::warning(unused + ": without effect, because decoding is greedy; add --sample to draw the answers");
  }
}

// What transformers' generate() does to a model's logits because a file beside the model says so, also where it decodes
// greedily.
void warn_of_generation_settings(const std::filesystem::path& model) {
  const std::filesystem::path file = model / "generation_config.json";
  if (!std::filesystem::exists(file)) {
    return;
  }
  const auto json = io::read_json_file(file);
  using Json = nlohmann::ordered_json;
  // With the values that change nothing, besides null and what is empty.
  static const std::pair<const char*, Json> kSettings[]{{"repetition_penalty", 1},
                                                        {"encoder_repetition_penalty", 1},
                                                        {"num_beams", 1},
                                                        {"no_repeat_ngram_size", 0},
                                                        {"min_new_tokens", 0},
                                                        {"min_length", 0},
                                                        {"bad_words_ids", nullptr},
                                                        {"suppress_tokens", nullptr},
                                                        {"begin_suppress_tokens", nullptr},
                                                        {"forced_bos_token_id", nullptr},
                                                        {"forced_eos_token_id", nullptr},
                                                        {"sequence_bias", nullptr}};
  std::string settings;
  for (const auto& [key, neutral] : kSettings) {
    const auto found = json.find(key);
    if (found != json.end() && !found->is_null() && *found != neutral && !(found->is_structured() && found->empty())) {
      settings += (settings.empty() ? "" : ", ") + std::string(key) + " " + io::shortened(found->dump(), 40);
    }
  }
  if (!settings.empty()) {
    log::warning(file.string() + ": not applied, so that transformers may answer otherwise: " + settings);
  }
}

}  // namespace

void add_answer_options(CLI::App& verb, eval::EvaluateOptions& options) {
  verb.add_option("--batch-size", options.batch_size, "prompts answered together")
      ->check(whole_number(1))
      ->capture_default_str();
  verb.add_option("--max-source-length", options.encode.max_source_length,
                  "longer prompts are cut to so many tokens (default: what --max-new-tokens leaves of the model's "
                  "longest sequence, at least half of it)")
      ->check(whole_number(1));
  verb.add_option_function<std::string>(
          "--cut", [&options](const std::string& name) { options.encode.cut = data::cut_from_name(name); },
          "what a prompt that is too long loses: its head, middle (default) or tail; error: refuse it")
      ->check(CLI::IsMember(data::cut_names()));
  verb.add_option("--max-new-tokens", options.max_target_length, "longest answer, its end included")
      ->check(whole_number(1))
      ->capture_default_str();
}

void add_sampling_options(CLI::App& verb, eval::EvaluateOptions& options) {
  auto& generation = options.generation;
  verb.add_flag("--sample", generation.sample, "sample instead of greedy decoding");
  verb.add_option("--temperature", generation.temperature, "of --sample")
      ->check(number_above(0.0, 1e6))
      ->capture_default_str();
  verb.add_option("--top-k", generation.top_k, "of --sample; 0: all tokens")
      ->check(whole_number(0))
      ->capture_default_str();
  verb.add_option("--top-p", generation.top_p, "of --sample; 1: all tokens")
      ->check(number_above(0.0, 1.0))
      ->capture_default_str();
  verb.add_option("--seed", generation.seed, "of --sample and of random demonstrations (eval)")
      ->check(whole_number(0, std::numeric_limits<std::uint64_t>::max()))
      ->capture_default_str();
  verb.parse_complete_callback([&verb, &generation] { warn_of_unused_options(verb, generation.sample); });
}

void add_fields_option(CLI::App& verb, data::FieldMap& fields) {
  verb.add_option_function<std::string>(
          "--fields", [&fields](const std::string& text) { fields = data::FieldMap::from_text(text); },
          "which fields of a record are prompt, answer, task and choices: " + io::joined(data::field_presets()) +
              " (default: promptcblue), JSON such as {\"prompt\": \"{question}\", \"answer\": \"{answer}\", "
              "\"task\": \"topic\"}, a file of it, or the configuration of a run")
      ->type_name("FIELDS");
}

void add_task_prompt_option(CLI::App& verb, PromptOptions& options) {
  verb.add_option("--task-prompts", options.task_prompts,
                  "JSON {task: description}: each task's stands before its inputs (as in training)");
}

void add_demonstration_options(CLI::App& verb, PromptOptions& options) {
  using Choice = data::DemonstrationOptions::Choice;
  auto* count = verb.add_option("--demonstrations", options.demonstrations.count,
                                "solved examples of its task before each question; fewer where they do not fit")
                    ->check(whole_number(1));
  auto* from = verb.add_option("--demonstrations-from", options.demonstrations_from, "records to take them from");
  count->needs(from);
  from->needs(count);
  verb.add_option("--demonstration-choice", options.demonstrations.choice, "random (by --seed) or similar")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, Choice>{{"random", Choice::random}, {"similar", Choice::similar}}))
      ->needs(count);
}

Prompting::Prompting(const PromptOptions& options, const eval::EvaluateOptions& evaluate)
    : options_(options.demonstrations), task_prompts_(options.task_prompts) {
  options_.seed = evaluate.generation.seed;
  options_.task_prompts = data::TaskPrompts::from_file(options.task_prompts);
  if (!options.demonstrations_from.empty()) {
    data::ReadOptions read;
    read.need_target = true;
    read.fields = options.fields;
    pool_ = std::make_unique<data::DemonstrationPool>(read_and_report(options.demonstrations_from, read));
  }
}

void Prompting::bind(const Session& session, eval::EvaluateOptions& evaluate) {
  warn_of_generation_settings(session.folder);
  evaluate.encode.source_prefix = options_.source_prefix = session.source_prefix;
  if (session.adapter) {
    train::warn_of_other_prompts(session.adapter_folder,
                                 train::PromptForm::of(*session.tokenizer, session.source_prefix, task_prompts_));
  }
  options_.max_source_length = eval::prompt_encoding(evaluate, *session.model).max_source_length;
  evaluate.ask = [this, tokenizer = session.tokenizer.get()](const data::Record& record) {
    return ask(record, *tokenizer);
  };
}

data::Record Prompting::ask(const data::Record& record, const model::Tokenizer& tokenizer) {
  return pool_ ? pool_->with_demonstrations(record, tokenizer, options_, &left_out_)
               : options_.task_prompts.apply(record);
}

eval::Evaluation predict(const Session& session, const std::vector<data::Record>& records,
                         const eval::EvaluateOptions& options, train::ProcessGroup* ranks) {
  const std::vector<std::int64_t> tasks = session.tasks_of(records);
  const eval::BatchContext context = [&](const std::vector<std::int64_t>& batch) {
    std::vector<std::int64_t> batch_tasks;
    for (const std::int64_t record : batch) {
      batch_tasks.push_back(tasks[record]);
    }
    return session.context_maker(batch_tasks);
  };
  if (ranks == nullptr) {
    return eval::evaluate(*session.model, *session.tokenizer, records, options, context, AnswerProgress());
  }
  eval::EvaluateOptions part = options;
  part.part = ranks->rank();
  part.parts = ranks->size();
  eval::Evaluation evaluation =
      eval::evaluate(*session.model, *session.tokenizer, records, part, context,
                     ranks->is_first() ? eval::ProgressCallback(AnswerProgress()) : eval::ProgressCallback());
  share_answers(evaluation, *ranks);
  return evaluation;
}

}  // namespace moelora::cli
