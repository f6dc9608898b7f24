// Which prediction belongs to which reference.

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "moelora/eval/python_text.h"
#include "moelora/eval/scorer.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

using SampleIndex = std::unordered_map<std::string, std::size_t>;
constexpr std::size_t kMostNamed = 5;

// The same sample_id may stand in two tasks, where predictions say theirs.
std::string sample_key(const data::Record& record, bool of_task) {
  return (of_task ? record.task + '\n' : "") + record.sample_id;
}

// Empty unless every record has an id that no other record (of its task) has.
std::optional<SampleIndex> index_by_sample_id(const std::vector<data::Record>& records, bool of_task) {
  SampleIndex index;
  for (std::size_t i = 0; i < records.size(); ++i) {
    if (records[i].sample_id.empty() || !index.try_emplace(sample_key(records[i], of_task), i).second)
      return std::nullopt;
  }
  return index;
}

std::string records_missing_in(const SampleIndex& index, const std::vector<data::Record>& records, bool of_task) {
  std::string named;
  std::size_t count = 0;
  for (const data::Record& record : records) {
    if (index.count(sample_key(record, of_task)) > 0 || ++count > kMostNamed) continue;
    named += (named.empty() ? "" : ", ") + record.sample_id + (record.task.empty() ? "" : " (" + record.task + ")");
  }
  return count > kMostNamed ? named + " and " + std::to_string(count - kMostNamed) + " more" : named;
}

bool may_be_of_one_task(const data::Record& truth, const data::Record& said) {
  return said.task.empty() || said.task == truth.task;
}

// Whether two records may ask the same; what one of them does not say is no difference.
bool may_ask_the_same(const data::Record& a, const data::Record& b) {
  return (a.input.empty() || b.input.empty() || a.input == b.input) &&
         (a.history.empty() || b.history.empty() || a.history == b.history) &&
         (a.system.empty() || b.system.empty() || a.system == b.system);
}

}  // namespace

bool has_target(const data::Record& record) { return !text::strip(record.target).empty(); }

data::CountedRecords without_target(const std::vector<data::Record>& records, std::string_view what) {
  data::CountedRecords left_out;
  for (const data::Record& record : records) {
    if (!has_target(record)) left_out.add(data::record_name(record));
  }
  MOELORA_CHECK(static_cast<std::size_t>(left_out.count) < records.size(), what,
                ": expected right answers (the field `target`, or what --fields names), found none in ", records.size(),
                " records: there is nothing to score against");
  return left_out;
}

std::vector<std::size_t> match_predictions(const std::vector<data::Record>& references,
                                           const std::vector<data::Record>& predictions) {
  std::vector<std::size_t> matches(references.size());
  const bool of_task =
      std::all_of(predictions.begin(), predictions.end(), [](const data::Record& said) { return !said.task.empty(); });
  const auto reference_index = index_by_sample_id(references, of_task);
  const auto prediction_index = index_by_sample_id(predictions, of_task);
  if (reference_index && prediction_index) {
    const std::string missing = records_missing_in(*prediction_index, references, of_task);
    MOELORA_CHECK(missing.empty(), "expected a prediction for every record, found none for sample_id ", missing,
                  ": predict the whole data file");
    const std::string unexpected = records_missing_in(*reference_index, predictions, of_task);
    MOELORA_CHECK(unexpected.empty(), "expected predictions for records of the data file only, found sample_id ",
                  unexpected, ": score against the file that was predicted");
    for (std::size_t i = 0; i < references.size(); ++i) {
      const data::Record& truth = references[i];
      matches[i] = prediction_index->at(sample_key(truth, of_task));
      const data::Record& said = predictions[matches[i]];
      MOELORA_CHECK(may_be_of_one_task(truth, said),
                    "expected predictions for the tasks of the data file, found task `", said.task,
                    "` under sample_id ", truth.sample_id, ", which has `", truth.task,
                    "`: score against the file that was predicted");
      MOELORA_CHECK(may_ask_the_same(truth, said),
                    "expected predictions for the questions of the data file, found another one under sample_id ",
                    truth.sample_id, " (task `", truth.task, "`): score against the file that was predicted");
    }
    return matches;
  }
  MOELORA_CHECK(references.size() == predictions.size(), "expected one prediction per record (", references.size(),
                " records), found ", predictions.size(),
                " predictions, and no unique sample_id on both sides to match them by: predict the whole data file");
  for (std::size_t i = 0; i < references.size(); ++i) {
    const data::Record& truth = references[i];
    const data::Record& said = predictions[i];
    MOELORA_CHECK(may_be_of_one_task(truth, said), "expected predictions in the order of the records, found at record ",
                  i + 1, " task `", said.task, "` where the data file has `", truth.task, "`: keep the order");
    MOELORA_CHECK(may_ask_the_same(truth, said),
                  "expected predictions in the order of the records, found another question at record ", i + 1,
                  " (task `", truth.task, "`): keep the order");
    matches[i] = i;
  }
  return matches;
}

}  // namespace moelora::eval
