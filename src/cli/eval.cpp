// moelora eval: answers every record and scores the answers, or scores answers that are there already.

#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/kept_answers.h"
#include "cli/predict.h"
#include "cli/ranks.h"
#include "cli/verbs.h"
#include "moelora/eval/report.h"
#include "moelora/eval/scorer.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/folder_lock.h"
#include "moelora/io/json_file.h"
#include "moelora/io/readable.h"
#include "moelora/log/log.h"

namespace moelora::cli {
namespace {

constexpr const char* kScorerHelp =
    "how answers are read and scored: moelora (MOELoRA-peft's evaluation), promptcblue (the benchmark's own), paper "
    "(as moelora, CHIP-CTC by macro-F1), or FILE.json with a metric for each task, e.g. "
    "{\"default\": \"exact-match\", \"tasks\": {\"NAME\": \"macro-f1\"}}; metrics: accuracy, choice-accuracy, "
    "macro-f1, exact-match, rouge-l";

struct EvalOptions {
  SessionOptions session;
  eval::EvaluateOptions evaluate;
  PromptOptions prompt;
  std::filesystem::path data;
  std::filesystem::path output;
  std::filesystem::path predictions;
  std::filesystem::path json;
  std::filesystem::path majority;
  std::filesystem::path before;
  data::FieldMap fields;  // of all files of records
  std::string scorer = "moelora";
  bool resume = false;
};

// The answers of a run that goes on, inside its folder.
std::filesystem::path kept_file(const EvalOptions& options) { return options.output / "answers.partial"; }

// A new folder, or that of a run that was broken off.
void check_output(const EvalOptions& options) {
  if (!options.resume || io::is_empty_folder(options.output)) {
    if (!std::filesystem::exists(kept_file(options))) {
      require_empty(options.output);
    }
    return;  // AnswerFile refuses answers that nobody wants to go on with
  }
  MOELORA_CHECK(std::filesystem::exists(kept_file(options)), options.output.string(),
                ": expected answers.partial of a run that was broken off, found ",
                std::filesystem::exists(options.output / "report.json") ? "one that is finished" : "none",
                "; choose another --output");
}

void add_counts(eval::EvaluationReport& report, const eval::Evaluation& evaluation,
                const eval::EvaluateOptions& options) {
  report.facts.emplace_back(
      "cut prompts", evaluation.cut_prompts.count == 0
                         ? "0"
                         : detail::concat(evaluation.cut_prompts.text(), ": longer than ", evaluation.longest_prompt,
                                          " tokens, without their ", data::cut_name(options.encode.cut)));
  report.facts.emplace_back("cut answers", std::to_string(evaluation.unfinished));
  report.facts.emplace_back("time", io::duration_text(evaluation.seconds));
}

void print_scores(const eval::EvaluationReport& report) {
  std::cout << eval::to_table(report.scores);
  std::vector<std::pair<std::string, const eval::Scores*>> columns;
  if (report.before) {
    columns.emplace_back("before", &*report.before);
  }
  columns.emplace_back(report.before ? "after" : "model", &report.scores);
  if (report.majority) {
    columns.emplace_back("majority", &*report.majority);
  }
  if (columns.size() > 1) {
    std::cout << "\n" << eval::comparison_table(columns);
  }
  std::cout << std::flush;
}

void run_eval(EvalOptions options, train::ProcessGroup* ranks) {
  const eval::Scorer scorer = eval::scorer_from(options.scorer);
  const bool generates = !options.session.model.empty();
  MOELORA_CHECK(generates != !options.predictions.empty(), "give either --model FOLDER or --predictions FILE");
  MOELORA_CHECK(generates || options.session.adapter.empty(), "--adapter goes with --model, not with --predictions");
  MOELORA_CHECK(generates || (options.prompt.task_prompts.empty() && options.prompt.demonstrations_from.empty()),
                "--task-prompts and --demonstrations go with --model, not with --predictions");
  MOELORA_CHECK(!generates || !options.output.empty(), "--model needs --output, the folder for answers and scores");
  if (!generates && !writes(ranks)) {
    return;  // scoring alone is no work to divide
  }
  MOELORA_CHECK(generates || !options.resume, "--resume goes with --model, not with --predictions");
  // Whether results can be written shows before the long part.
  std::optional<io::FolderLock> lock;
  std::optional<KeptAnswers> kept;
  if (!options.output.empty() && writes(ranks)) {
    lock.emplace(options.output, "moelora eval");
    check_output(options);
  }
  if (generates) {
    kept.emplace(kept_file(options), options.resume, ranks);
  }
  if (!options.json.empty() && writes(ranks)) {
    io::AtomicFile(options.json);
  }
  std::vector<std::string> malformed;
  const std::vector<data::Record> references =
      read_and_report(options.data, {.fields = options.fields, .keep_original = true}, &malformed);
  const data::CountedRecords left_out = eval::without_target(references, options.data.string());
  eval::EvaluationReport report;
  report.title = "Evaluation";
  report.facts = {{"data", options.data.string()}, {"records", std::to_string(references.size())}};
  report.facts.emplace_back("scorer", scorer.name);
  eval::check_scorer(scorer, references);
  report.facts.emplace_back("scored", std::to_string(static_cast<std::int64_t>(references.size()) - left_out.count));
  if (!malformed.empty()) {
    report.facts.emplace_back("left out, malformed",
                              detail::concat(malformed.size(), "; the first: ", malformed.front()));
  }
  if (left_out.count > 0) {
    report.facts.emplace_back("left out, without target", left_out.text());
    log::warning(options.data.string() + ": records without a target are not scored: " + left_out.text());
  }
  // Bad input of the comparisons shows before the long part.
  if (!options.before.empty()) {
    report.before =
        eval::score(references, read_and_report(options.before, {.fields = options.fields.for_predictions()}), scorer);
  }
  if (!options.majority.empty()) {
    report.majority =
        eval::majority_scores(read_and_report(options.majority, {.fields = options.fields}), references, scorer);
  }
  std::vector<data::Record> predictions;
  data::CountedRecords cut_prompts;
  if (generates) {
    options.prompt.fields = options.fields;
    Prompting prompting(options.prompt, options.evaluate);
    options.session.device = device_of_rank(options.session.device, ranks);
    options.session.fingerprint = true;
    const Session session = open_session(options.session);
    prompting.bind(session, options.evaluate);
    kept->begin(identity_of_answers(session, references, options.evaluate, options.prompt), options.evaluate);
    eval::Evaluation evaluation = predict(session, references, options.evaluate, ranks);
    if (!writes(ranks)) {
      return;
    }
    predictions = std::move(evaluation.predictions);
    report.facts.emplace_back("model", options.session.model.string());
    report.facts.emplace_back("adapter", options.session.adapter.empty() ? "none" : options.session.adapter.string());
    if (!options.prompt.task_prompts.empty()) {
      report.facts.emplace_back("task prompts", options.prompt.task_prompts.string());
    }
    if (!options.prompt.demonstrations_from.empty()) {
      const bool similar = options.prompt.demonstrations.choice == data::DemonstrationOptions::Choice::similar;
      report.facts.emplace_back("demonstrations",
                                detail::concat(options.prompt.demonstrations.count, similar ? " similar" : " random",
                                               " per question from ", options.prompt.demonstrations_from.string(), ", ",
                                               prompting.left_out(), " left out in all because they did not fit"));
    }
    add_counts(report, evaluation, options.evaluate);
    cut_prompts = std::move(evaluation.cut_prompts);
    report.predictions = predictions;
    report.references = references;
  } else {
    predictions = read_and_report(options.predictions, {.fields = options.fields.for_predictions()});
    report.facts.emplace_back("predictions", options.predictions.string());
  }
  report.scores = eval::score(references, predictions, scorer);
  if (!options.output.empty()) {
    eval::write_evaluation_report(options.output, report);
  }
  if (!options.json.empty()) {
    nlohmann::ordered_json json = eval::to_json(report.scores);
    json["malformed"] = malformed.size();
    json["cut_prompts"] = cut_prompts.count;
    if (cut_prompts.count > 0) {
      json["cut_prompts_of"] = cut_prompts.text();
    }
    io::write_json_file(options.json, json);
  }
  if (kept) {
    kept->remove();
  }
  print_scores(report);
}

}  // namespace

void add_eval(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand("eval", "generate answers and score them per task, or score given answers");
  auto options = std::make_shared<EvalOptions>();
  auto* model = verb->add_option("--model", options->session.model, "model folder; its answers are scored");
  verb->add_option("--adapter", options->session.adapter, "adapter folder");
  add_template_option(*verb, options->session)->needs(model);
  add_compute_options(*verb, options->session);
  add_answer_options(*verb, options->evaluate);
  add_sampling_options(*verb, options->evaluate);
  add_task_prompt_option(*verb, options->prompt);
  add_demonstration_options(*verb, options->prompt);
  verb->add_option("--data", options->data, "records with the right answers in `target`; those without are not scored")
      ->required();
  add_fields_option(*verb, options->fields);
  verb->add_option("--output", options->output, "new folder for predictions.json, report.{json,txt,html}");
  verb->add_flag("--resume", options->resume, "with --model: go on after the answers of a run that was broken off");
  verb->add_option("--predictions", options->predictions,
                   "records with answers in `target`, or with --fields in `prediction`: scored without a model");
  verb->add_option("--scorer", options->scorer, kScorerHelp)->capture_default_str();
  verb->add_option("--json", options->json, "also write the scores here");
  verb->add_option("--before", options->before, "earlier predictions on the same data: one more column");
  verb->add_option("--majority", options->majority,
                   "training records: one more column, each task's most frequent training answer");
  for (const char* generating : {"--batch-size", "--max-source-length", "--cut", "--max-new-tokens", "--sample",
                                 "--temperature", "--top-k", "--top-p", "--seed"}) {
    verb->get_option(generating)->needs(model);
  }
  verb->footer(
      "Several processes (torchrun, or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT) share the records.\n"
      "Examples:\n"
      "  moelora eval --model examples/tiny_base/model --adapter out/run/adapter --data examples/sample_data/dev.json "
      "\\\n"
      "      --output out/scores --majority examples/sample_data/train.json\n"
      "  moelora eval --model MODEL --data dev.json --output out/shown --demonstrations 4 --demonstrations-from "
      "train.json --demonstration-choice similar\n"
      "  moelora eval --predictions answers.json --data dev.json --scorer promptcblue --json scores.json\n"
      "  moelora eval --predictions answers.json --data dev.json --scorer configs/scorers.json");
  verb->callback([options, &status] {
    status = run_with_ranks("eval", [&](train::ProcessGroup* ranks) {
      run_eval(*options, ranks);
      return 0;
    });
  });
}

}  // namespace moelora::cli
