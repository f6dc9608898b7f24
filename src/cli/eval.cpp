// moelora eval: answers every record and scores the answers, or scores answers that are there already.

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/predict.h"
#include "cli/verbs.h"
#include "moelora/eval/scorer.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/provenance.h"

namespace moelora::cli {
namespace {

struct EvalOptions {
  SessionOptions session;
  PredictOptions predict;
  std::filesystem::path data;
  std::filesystem::path output;
  std::filesystem::path predictions;
  std::filesystem::path json;
  std::filesystem::path majority;
  std::vector<std::string> compare;
  std::string scorer = "moelora";
};

struct Column {
  std::string name;
  eval::Scores scores;
};

// The other columns of the table: `NAME=PREDICTIONS` files, then the majority answer.
std::vector<Column> compared_columns(const EvalOptions& options, const std::vector<data::Record>& references,
                                     eval::Scorer scorer) {
  std::vector<Column> columns;
  for (const std::string& entry : options.compare) {
    const std::size_t equals = entry.find('=');
    MOELORA_CHECK(equals != std::string::npos && equals > 0, "--compare: expected NAME=PREDICTIONS, found '", entry, "'");
    columns.push_back(
        {entry.substr(0, equals), eval::score(references, read_and_report(entry.substr(equals + 1)), scorer)});
  }
  if (!options.majority.empty()) {
    columns.push_back({"majority", eval::majority_scores(read_and_report(options.majority), references, scorer)});
  }
  return columns;
}

void print_scores(const eval::Scores& scores, const std::vector<Column>& columns) {
  if (columns.empty()) {
    std::cout << eval::to_table(scores) << std::flush;
    return;
  }
  std::vector<std::pair<std::string, const eval::Scores*>> all;
  for (const Column& column : columns) {
    all.emplace_back(column.name, &column.scores);
  }
  all.emplace_back("this", &scores);
  std::cout << eval::comparison_table(all) << std::flush;
}

nlohmann::ordered_json scores_json(const eval::Scores& scores, const std::vector<Column>& columns,
                                   const std::vector<data::Record>& references) {
  nlohmann::ordered_json json = eval::to_json(scores);
  for (const Column& column : columns) {
    json["compared"][column.name] = eval::to_json(column.scores);
  }
  json["data_sha256"] = data::data_hash(references);
  json["provenance"] = io::provenance();
  return json;
}

void run_eval(const EvalOptions& options) {
  const eval::Scorer scorer = eval::scorer_from_name(options.scorer);
  const bool generates = !options.session.model.empty();
  MOELORA_CHECK(generates != !options.predictions.empty(), "give either --model FOLDER or --predictions FILE");
  MOELORA_CHECK(generates || options.session.adapter.empty(), "--adapter goes with --model, not with --predictions");
  MOELORA_CHECK(!generates || !options.output.empty(), "--model needs --output, the folder for answers and scores");
  if (generates) {
    require_empty(options.output);
  }
  const std::vector<data::Record> references = read_and_report(options.data);
  const std::vector<Column> columns = compared_columns(options, references, scorer);
  std::vector<data::Record> predictions;
  if (generates) {
    const Session session = open_session(options.session);
    const std::vector<std::string> answers = predict(session, references, options.predict);
    write_predictions(options.output / "predictions.json", references, answers);
    predictions = references;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      predictions[i].target = answers[i];
    }
  } else {
    predictions = read_and_report(options.predictions);
  }
  const eval::Scores scores = eval::score(references, predictions, scorer);
  print_scores(scores, columns);
  const nlohmann::ordered_json json = scores_json(scores, columns, references);
  if (generates) {
    io::write_json_file(options.output / "scores.json", json);
  }
  if (!options.json.empty()) {
    io::write_json_file(options.json, json);
  }
}

}  // namespace

void add_eval(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand("eval", "generate answers and score them per task, or score given answers");
  auto options = std::make_shared<EvalOptions>();
  verb->add_option("--model", options->session.model, "model folder; its answers are scored");
  verb->add_option("--adapter", options->session.adapter, "adapter folder");
  add_compute_options(*verb, options->session);
  add_predict_options(*verb, options->predict);
  verb->add_option("--data", options->data, "records with the right answers in `target`")->required();
  verb->add_option("--output", options->output, "folder for predictions.json and scores.json");
  verb->add_option("--predictions", options->predictions, "records with answers in `target`: scored without a model");
  verb->add_option("--scorer", options->scorer, "how answers are read and scored")->capture_default_str();
  verb->add_option("--json", options->json, "also write the scores here");
  verb->add_option("--compare", options->compare, "NAME=PREDICTIONS: one more column in the table; repeatable");
  verb->add_option("--majority", options->majority,
                   "training records: one more column, each task's most frequent training answer");
  verb->footer(
      "Examples:\n"
      "  moelora eval --model examples/tiny_base/model --adapter out/run/adapter --data examples/sample_data/dev.json \\\n"
      "      --output out/scores --majority examples/sample_data/train.json\n"
      "  moelora eval --predictions answers.json --data dev.json --scorer moelora --json scores.json");
  verb->callback([options, &status] {
    run_eval(*options);
    status = 0;
  });
}

}  // namespace moelora::cli
