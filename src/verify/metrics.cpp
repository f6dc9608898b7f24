// Goldens of the scorers `moelora` and `promptcblue`: structured answers, scores per task, word segmentation, Rouge on
// given tokens.

#include <utility>

#include "golden.h"
#include "moelora/data/record.h"
#include "moelora/eval/answers.h"
#include "moelora/eval/basic_tokens.h"
#include "moelora/eval/rouge.h"
#include "moelora/eval/scorer.h"
#include "moelora/eval/segmenter.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr double kScoreTolerance = 1e-12;

bool has_words() { return eval::default_segmenter().name() == "jieba"; }

void skip_without_words(const std::string& name, VerifyReport& report) {
  report.skipped.push_back(name + ": needs jieba's tables (cmake/setup.sh fetches them, MOELORA_JIEBA_DIR names them)");
}

void check_structured(const fs::path& records, const fs::path& expected_file, eval::AnswerFormat format,
                      VerifyReport& report) {
  const Json expected = io::read_json_file(expected_file);
  if (expected.empty()) {
    report.not_compared.push_back(expected_file.filename().string() + ": holds no task");
  }
  Json found = eval::structured_answers(data::read_records(records).records, format);
  for (const auto& [task, answers] : expected.items()) {
    Json sorted = found.contains(task) ? found[task] : Json();
    if (task == "CHIP-CDN") {  // a set; the golden is sorted
      for (Json& answer : sorted) {
        std::sort(answer["answer"].begin(), answer["answer"].end());
      }
    }
    compare_json(report, expected_file.filename().string() + ": " + task, answers, sorted);
  }
}

void check_scores(const fs::path& folder, const Json& expected, VerifyReport& report) {
  const auto truth = data::read_records(folder / "dev.json").records;
  const auto answers = data::read_records(folder / "dev_predictions.json").records;
  for (const auto& [column, predictions] :
       {std::pair<std::string, const std::vector<data::Record>*>{"predictions", &answers},
        {"truth_vs_itself", &truth}}) {
    const eval::Scores scores = eval::score(truth, *predictions);
    for (const auto& [task, columns] : expected.items()) {
      const Json& wanted = columns.at(column);
      const std::string name = "expected_metrics.json: " + task + "." + column;
      const eval::TaskScore* found = scores.find(task);
      MOELORA_CHECK(found != nullptr, "expected_metrics.json has the task ", task, ", dev.json has no record of it");
      if (found->segmented && !has_words()) {
        skip_without_words(name, report);
        continue;
      }
      compare_numbers(report, name, wanted.value("f1", wanted.value("score", -1.0)), found->score, kScoreTolerance);
      if (wanted.contains("precision")) {
        compare_numbers(report, name + ".precision", wanted["precision"].get<double>(), found->precision.value_or(-1),
                        kScoreTolerance);
        compare_numbers(report, name + ".recall", wanted["recall"].get<double>(), found->recall.value_or(-1),
                        kScoreTolerance);
      }
    }
  }
}

void check_benchmark_scores(const fs::path& folder, const Json& expected, VerifyReport& report) {
  const auto truth = data::read_records(folder / "dev.json").records;
  const auto answers = data::read_records(folder / "dev_predictions.json").records;
  const eval::Scores scores = eval::score(truth, answers, eval::scorer_from_name("promptcblue"));
  for (const auto& [task, wanted] : expected.items()) {
    const std::string name = "expected_metrics.json: promptcblue " + task;
    const eval::TaskScore* found = scores.find(task);
    MOELORA_CHECK(found != nullptr, "expected_metrics.json has the task ", task, ", dev.json has no record of it");
    for (const auto& [key, value] : wanted.items()) {
      if (!value.is_number()) continue;
      const std::optional<double> number = key == "precision" ? found->precision
                                           : key == "recall"  ? found->recall
                                           : key == "rouge1"  ? found->rouge_1
                                           : key == "rouge2"  ? found->rouge_2
                                                              : std::optional(found->score);
      compare_numbers(report, name + "." + key, value.get<double>(), number.value_or(-1), kScoreTolerance);
    }
  }
}

void check_words(const Json& pair, const std::string& where, VerifyReport& report) {
  for (const std::string side : {"prediction", "reference"}) {
    const std::string text = pair.at(side);
    if (has_words()) {
      compare_json(report, where + ".jieba_" + side, pair.at("jieba_" + side),
                   eval::join_tokens(eval::default_segmenter().cut(text)));
    } else {
      skip_without_words(where + ".jieba_" + side, report);
    }
    compare_json(report, where + ".basic_tokens_" + side, pair.at("basic_tokens_" + side),
                 eval::join_tokens(eval::basic_tokens(text)));
  }
}

struct RougeColumn {
  const char* tokens;
  const char* scores;
  eval::RougeScores (*rouge)(std::string_view, std::string_view);
};

void check_rouge(const fs::path& path, VerifyReport& report) {
  const Json pairs = io::read_json_file(path);
  if (pairs.empty()) {
    report.not_compared.push_back(path.filename().string() + ": holds no pairs");
  }
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    check_words(pairs[i], "rouge_pairs.json[" + std::to_string(i) + "]", report);
    for (const auto& [tokens, rouge, compute] : {RougeColumn{"jieba", "rouge_jieba", eval::rouge},
                                                 {"char", "rouge_char", eval::rouge},
                                                 {"basic_tokens", "rouge_chinese_basic", eval::rouge_chinese},
                                                 {"char", "rouge_chinese_char", eval::rouge_chinese}}) {
      const auto scores = compute(pairs[i].at(tokens + std::string("_prediction")).get<std::string>(),
                                  pairs[i].at(tokens + std::string("_reference")).get<std::string>());
      const Json& wanted = pairs[i].at(rouge);
      for (const auto& [name, score] : {std::pair<std::string, eval::RougeScore>{"rouge-1", scores.rouge_1},
                                        {"rouge-2", scores.rouge_2},
                                        {"rouge-l", scores.rouge_l}}) {
        const std::string where = "rouge_pairs.json[" + std::to_string(i) + "]." + rouge + "." + name;
        compare_numbers(report, where + ".r", wanted.at(name).at("r").get<double>(), score.recall, kScoreTolerance);
        compare_numbers(report, where + ".p", wanted.at(name).at("p").get<double>(), score.precision, kScoreTolerance);
        compare_numbers(report, where + ".f", wanted.at(name).at("f").get<double>(), score.f, kScoreTolerance);
      }
    }
  }
}

}  // namespace

void verify_metrics(const fs::path& folder, VerifyReport& report) {
  for (const auto& [records, part] : {std::pair<std::string, std::string>{"dev.json", "truth"},
                                      {"dev_predictions.json", "predictions"},
                                      {"test_predictions.json", "test_predictions"}}) {
    for (const auto& [whose, format] :
         {std::pair<std::string, eval::AnswerFormat>{"moelora", eval::AnswerFormat::moelora},
          {"promptcblue", eval::AnswerFormat::promptcblue}}) {
      const fs::path expected = folder / ("expected_structured_" + part + "_" + whose + ".json");
      if (fs::exists(folder / records) && fs::exists(expected)) {
        check_structured(folder / records, expected, format, report);
      }
    }
  }
  if (fs::exists(folder / "expected_metrics.json")) {
    const Json expected = io::read_json_file(folder / "expected_metrics.json");
    if (expected.contains("moelora_evaluation")) check_scores(folder, expected["moelora_evaluation"], report);
    if (expected.contains("promptcblue_evaluation")) {
      check_benchmark_scores(folder, expected["promptcblue_evaluation"], report);
    }
  }
  if (fs::exists(folder / "rouge_pairs.json")) {
    check_rouge(folder / "rouge_pairs.json", report);
  }
}

}  // namespace moelora::verify
