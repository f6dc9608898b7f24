// moelora eval: answers every record and scores the answers, or scores answers that are there already.

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/predict.h"
#include "cli/ranks.h"
#include "cli/verbs.h"
#include "moelora/eval/report.h"
#include "moelora/eval/scorer.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/train/progress.h"

namespace moelora::cli {
namespace {

constexpr const char* kScorerHelp =
    "how answers are read and scored: moelora (MOELoRA-peft's evaluation), promptcblue (the benchmark's own), paper "
    "(as "
    "moelora, CHIP-CTC by macro-F1), or FILE.json with a metric for each task, e.g. "
    "{\"default\": \"exact-match\", \"tasks\": {\"NAME\": \"macro-f1\"}}; metrics: accuracy, macro-f1, exact-match, "
    "rouge-l";

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
  std::string scorer = "moelora";
};

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
  if (!options.output.empty() && writes(ranks)) {
    require_empty(options.output);
  }
  const std::vector<data::Record> references = read_and_report(options.data);
  eval::EvaluationReport report;
  report.title = "Evaluation";
  report.facts = {{"data", options.data.string()}, {"records", std::to_string(references.size())}};
  report.facts.emplace_back("scorer", scorer.name);
  eval::check_scorer(scorer, references);
  // Bad input of the comparisons shows before the long part.
  if (!options.before.empty()) {
    report.before = eval::score(references, read_and_report(options.before), scorer);
  }
  if (!options.majority.empty()) {
    report.majority = eval::majority_scores(read_and_report(options.majority), references, scorer);
  }
  std::vector<data::Record> predictions;
  if (generates) {
    Prompting prompting(options.prompt, options.evaluate);
    options.session.device = device_of_rank(options.session.device, ranks);
    const Session session = open_session(options.session);
    options.evaluate.ask = [&](const data::Record& record) { return prompting.ask(record, *session.tokenizer); };
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
    report.facts.emplace_back("cut answers", std::to_string(evaluation.unfinished));
    report.facts.emplace_back("time", train::duration_text(evaluation.seconds));
    report.predictions = predictions;
    report.references = references;
  } else {
    predictions = read_and_report(options.predictions);
    report.facts.emplace_back("predictions", options.predictions.string());
  }
  report.scores = eval::score(references, predictions, scorer);
  if (!options.output.empty()) {
    eval::write_evaluation_report(options.output, report);
  }
  if (!options.json.empty()) {
    io::write_json_file(options.json, eval::to_json(report.scores));
  }
  print_scores(report);
}

}  // namespace

void add_eval(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand("eval", "generate answers and score them per task, or score given answers");
  auto options = std::make_shared<EvalOptions>();
  verb->add_option("--model", options->session.model, "model folder; its answers are scored");
  verb->add_option("--adapter", options->session.adapter, "adapter folder");
  add_compute_options(*verb, options->session);
  add_predict_options(*verb, options->evaluate);
  add_task_prompt_option(*verb, options->prompt);
  add_demonstration_options(*verb, options->prompt);
  verb->add_option("--data", options->data, "records with the right answers in `target`")->required();
  verb->add_option("--output", options->output, "new folder for predictions.json, report.{json,txt,html}");
  verb->add_option("--predictions", options->predictions, "records with answers in `target`: scored without a model");
  verb->add_option("--scorer", options->scorer, kScorerHelp)->capture_default_str();
  verb->add_option("--json", options->json, "also write the scores here");
  verb->add_option("--before", options->before, "earlier predictions on the same data: one more column");
  verb->add_option("--majority", options->majority,
                   "training records: one more column, each task's most frequent training answer");
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
