// Goldens of the scorer `moelora`: structured answers, scores per task, Rouge on given tokens.

#include "golden.h"
#include "moelora/data/record.h"
#include "moelora/eval/answers.h"
#include "moelora/eval/rouge.h"
#include "moelora/eval/scorer.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

void check_structured(const fs::path& records, const fs::path& expected_file, VerifyReport& report) {
  const Json expected = io::read_json_file(expected_file);
  if (expected.empty()) {
    report.not_compared.push_back(expected_file.filename().string() + ": holds no task");
  }
  Json found = eval::structured_answers(data::read_records(records).records);
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

void check_scores(const fs::path& folder, VerifyReport& report) {
  const Json expected = io::read_json_file(folder / "expected_metrics.json").at("moelora_evaluation");
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
      if (found->segmented) {
        report.skipped.push_back(name + ": needs the reference's word segmentation, scored on " + scores.segmentation);
        continue;
      }
      compare_numbers(report, name, wanted.value("f1", wanted.value("score", -1.0)), found->score, 1e-12);
      if (wanted.contains("precision")) {
        compare_numbers(report, name + ".precision", wanted["precision"].get<double>(), found->precision.value_or(-1),
                        1e-12);
        compare_numbers(report, name + ".recall", wanted["recall"].get<double>(), found->recall.value_or(-1), 1e-12);
      }
    }
  }
}

void check_rouge(const fs::path& path, VerifyReport& report) {
  const Json pairs = io::read_json_file(path);
  if (pairs.empty()) {
    report.not_compared.push_back(path.filename().string() + ": holds no pairs");
  }
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    for (const auto& [tokens, rouge] : {std::pair<std::string, std::string>{"jieba", "rouge_jieba"}}) {
      const auto scores = eval::rouge(pairs[i].at(tokens + "_prediction").get<std::string>(),
                                      pairs[i].at(tokens + "_reference").get<std::string>());
      const Json& wanted = pairs[i].at(rouge);
      for (const auto& [name, score] : {std::pair<std::string, eval::RougeScore>{"rouge-1", scores.rouge_1},
                                        {"rouge-2", scores.rouge_2},
                                        {"rouge-l", scores.rouge_l}}) {
        const std::string where = "rouge_pairs.json[" + std::to_string(i) + "]." + rouge + "." + name;
        compare_numbers(report, where + ".r", wanted.at(name).at("r").get<double>(), score.recall, 1e-12);
        compare_numbers(report, where + ".p", wanted.at(name).at("p").get<double>(), score.precision, 1e-12);
        compare_numbers(report, where + ".f", wanted.at(name).at("f").get<double>(), score.f, 1e-12);
      }
    }
  }
}

}  // namespace

void verify_metrics(const fs::path& folder, VerifyReport& report) {
  for (const auto& [records, expected] :
       {std::pair<std::string, std::string>{"dev.json", "expected_structured_truth_moelora.json"},
        {"dev_predictions.json", "expected_structured_predictions_moelora.json"},
        {"test_predictions.json", "expected_structured_test_predictions_moelora.json"}}) {
    if (fs::exists(folder / records) && fs::exists(folder / expected)) {
      check_structured(folder / records, folder / expected, report);
    }
  }
  if (fs::exists(folder / "expected_metrics.json")) {
    check_scores(folder, report);
  }
  if (fs::exists(folder / "rouge_pairs.json")) {
    check_rouge(folder / "rouge_pairs.json", report);
  }
  report.skipped.push_back("goldens of the scorer promptcblue: it is not part of this version");
}

}  // namespace moelora::verify
