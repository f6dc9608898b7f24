#include "moelora/data/demonstrations.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "data/bigram_index.h"
#include "moelora/data/example.h"
#include "moelora/data/random.h"
#include "moelora/data/split.h"
#include "moelora/io/error.h"

namespace moelora::data {
namespace {

using Choice = DemonstrationOptions::Choice;

constexpr std::uint64_t kDemonstrationSalt = 3;  // apart from the hashes that cut a file into parts

std::vector<std::string_view> views_of_inputs(const std::vector<Record>& records) {
  std::vector<std::string_view> inputs;
  inputs.reserve(records.size());
  for (const Record& record : records) {
    inputs.push_back(record.input);
  }
  return inputs;
}

std::vector<std::uint64_t> candidate_hashes(const std::vector<Record>& records) {
  std::vector<std::uint64_t> hashes;
  hashes.reserve(records.size());
  for (const Record& record : records) {
    hashes.push_back(record_hash(record, kDemonstrationSalt));
  }
  return hashes;
}

std::uint64_t question_hash(const Record& record) {
  Record question;  // without the target: it is what is asked for
  question.input = record.input;
  question.task = record.task;
  return record_hash(question, kDemonstrationSalt);
}

/// The `count` smallest of the (key, place in the pool), in order.
template <typename Key>
std::vector<std::size_t> smallest_keys(std::vector<std::pair<Key, std::size_t>> keys, std::int64_t count) {
  const auto size = std::min(keys.size(), static_cast<std::size_t>(count));
  const auto middle = keys.begin() + static_cast<std::ptrdiff_t>(size);
  std::partial_sort(keys.begin(), middle, keys.end());
  std::vector<std::size_t> places;
  for (auto key = keys.begin(); key != middle; ++key) {
    places.push_back(key->second);
  }
  return places;
}

std::string demonstration_text(const Record& record, const model::Tokenizer& tokenizer) {
  return source_text(record, tokenizer) + record.target + "\n\n";
}

bool fits_source(const Record& record, const model::Tokenizer& tokenizer, const DemonstrationOptions& options) {
  return prompt_length(record, tokenizer, options.source_prefix) <= options.max_source_length;
}

}  // namespace

struct DemonstrationPool::TaskPool {
  explicit TaskPool(std::vector<Record> of_task)
      : records(std::move(of_task)), hashes(candidate_hashes(records)), index(views_of_inputs(records)) {}

  /// Places of the chosen records, first choice first.
  std::vector<std::size_t> choose(const Record& question, const DemonstrationOptions& options) const {
    const auto candidates = [&](auto&& key) {
      std::vector<std::pair<decltype(key(std::size_t{})), std::size_t>> keys;
      for (std::size_t place = 0; place < records.size(); ++place) {
        if (records[place].input != question.input) {
          keys.emplace_back(key(place), place);
        }
      }
      return smallest_keys(std::move(keys), options.count);
    };
    if (options.choice == Choice::similar) {
      const std::vector<double> similarities = index.similarities(question.input);
      return candidates([&](std::size_t place) { return -similarities[place]; });
    }
    const std::uint64_t hash = question_hash(question);
    return candidates([&](std::size_t place) { return stream(options.seed, hash, hashes[place]).next(); });
  }

  std::vector<Record> records;
  std::vector<std::uint64_t> hashes;
  BigramIndex index;
};

DemonstrationPool::DemonstrationPool(std::vector<Record> records) {
  MOELORA_CHECK(!records.empty(),
                "expected records to take demonstrations from, found an empty pool; give the training records");
  std::map<std::string, std::vector<Record>> by_task;
  std::set<std::tuple<std::string, std::string, decltype(Record::history)>> seen;
  for (Record& record : records) {
    if (seen.emplace(record.task, record.input, record.history).second) {
      std::vector<Record>& of_task = by_task[record.task];
      of_task.push_back(std::move(record));
    }
  }
  for (auto& [task, of_task] : by_task) {
    tasks_[task] = std::make_shared<const TaskPool>(std::move(of_task));
  }
}

Record DemonstrationPool::with_demonstrations(const Record& record, const model::Tokenizer& tokenizer,
                                              const DemonstrationOptions& options, std::int64_t* left_out) const {
  MOELORA_CHECK(options.count >= 0, "expected 0 or more demonstrations, found ", options.count);
  const auto found = tasks_.find(record.task);
  if (found == tasks_.end()) {
    std::string known;
    for (const auto& [task, pool] : tasks_) {
      known += (known.empty() ? "" : ", ") + task;
    }
    throw Error(detail::concat("expected demonstrations of task '", record.task, "', found a pool of ", known,
                               "; take them from records of this task"));
  }
  const TaskPool& pool = *found->second;
  const std::string opening = options.task_prompts.text(record.task);
  const std::vector<std::size_t> places = pool.choose(record, options);
  Record result = record;
  result.input = opening + record.input;
  std::string shown;
  std::size_t count = 0;
  for (; count < places.size(); ++count) {
    std::string more = demonstration_text(pool.records[places[count]], tokenizer) + shown;
    Record longer = record;
    longer.input = opening + more + record.input;
    if (!fits_source(longer, tokenizer, options)) {
      break;
    }
    shown = std::move(more);
    result = std::move(longer);
  }
  if (left_out != nullptr) {
    *left_out += static_cast<std::int64_t>(places.size() - count);
  }
  return result;
}

}  // namespace moelora::data
