#include "moelora/data/split.h"

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "moelora/io/error.h"
#include "moelora/io/json_reader.h"
#include "moelora/io/sha256.h"

namespace moelora::data {
namespace {

constexpr std::uint64_t kPartSalt = 1;
constexpr std::uint64_t kFewSalt = 0x6665772072656373ull;  // far from those that a seed makes

/// How many records each task gives: proportional shares rounded down, the rest to the largest remainders, then at
/// least one for every task that can spare it. A task keeps at least one record.
std::vector<std::int64_t> validation_shares(const std::vector<std::int64_t>& counts, std::int64_t size) {
  std::int64_t total = 0;
  std::int64_t spare = 0;
  for (const std::int64_t count : counts) {
    total += count;
    spare += count - 1;
  }
  std::vector<std::int64_t> shares(counts.size());
  std::vector<std::pair<std::int64_t, std::size_t>> remainders;  // negated, so that sorting puts the largest first
  std::int64_t given = 0;
  for (std::size_t task = 0; task < counts.size(); ++task) {
    shares[task] = size * counts[task] / total;  // less than counts[task], because size < total
    remainders.emplace_back(-(size * counts[task] % total), task);
    given += shares[task];
  }
  std::sort(remainders.begin(), remainders.end());
  for (std::size_t i = 0; given < std::min(size, spare); i = (i + 1) % remainders.size()) {
    const std::size_t task = remainders[i].second;
    if (shares[task] + 1 < counts[task]) {
      ++shares[task];
      ++given;
    }
  }
  for (std::size_t task = 0; task < counts.size(); ++task) {
    if (shares[task] > 0 || counts[task] < 2) {
      continue;
    }
    const auto richest = std::max_element(shares.begin(), shares.end());
    if (*richest < 2) {
      break;
    }
    --*richest;
    shares[task] = 1;
  }
  return shares;
}

/// What a model is asked with: input and history, each part with its length behind it.
std::string question_of(const Record& record) {
  if (record.history.empty() && record.system.empty()) {
    return record.input;
  }
  std::string question = record.input + '\0' + std::to_string(record.input.size());
  for (const auto& [asked, answered] : record.history) {
    question += asked + '\0' + std::to_string(asked.size()) + answered + '\0' + std::to_string(answered.size());
  }
  if (!record.system.empty()) {
    question += record.system + '\0' + std::to_string(record.system.size());
  }
  return question;
}

/// Chooses records for validation, all records of one question together.
class ValidationChoice {
 public:
  explicit ValidationChoice(const std::vector<Record>& records) : group_of_(records.size()), chosen_(records.size()) {
    std::unordered_map<std::string, std::size_t> seen;
    for (std::size_t i = 0; i < records.size(); ++i) {
      group_of_[i] = seen.emplace(question_of(records[i]), groups_.size()).first->second;
      if (group_of_[i] == groups_.size()) {
        groups_.emplace_back();
      }
      Group& group = groups_[group_of_[i]];
      group.records.push_back(i);
      ++group.of_task[records[i].task];
      ++left_[records[i].task];
    }
  }

  /// Takes about `share` records of the task, those that come first in `order`: never more, except where the questions
  /// have so many answers that none would be taken.
  void take(const std::string& task, std::int64_t share, const std::vector<std::size_t>& order) {
    std::size_t smallest = order.size();  // the place in `order` of the question that overshoots the least
    for (std::size_t place = 0; place < order.size() && taken_[task] < share; ++place) {
      const Group& group = groups_[group_of_[order[place]]];
      if (!can_take(group)) {
        continue;
      }
      const std::int64_t count = group.of_task.at(task);
      if (taken_[task] + count <= share) {
        take(group);
      } else if (smallest == order.size() || count < groups_[group_of_[order[smallest]]].of_task.at(task)) {
        smallest = place;
      }
    }
    if (share > 0 && taken_[task] == 0 && smallest < order.size()) {
      take(groups_[group_of_[order[smallest]]]);
    }
  }

  bool chosen(std::size_t record) const { return chosen_[record]; }

 private:
  struct Group {
    std::vector<std::size_t> records;
    std::map<std::string, std::int64_t> of_task;  ///< how many of its records are of each task
  };

  /// Not taken yet, and each of its tasks keeps a record.
  bool can_take(const Group& group) const {
    return !chosen_[group.records.front()] &&
           std::all_of(group.of_task.begin(), group.of_task.end(),
                       [&](const auto& task) { return left_.at(task.first) > task.second; });
  }

  void take(const Group& group) {
    for (const std::size_t record : group.records) {
      chosen_[record] = true;
    }
    for (const auto& [task, count] : group.of_task) {
      taken_[task] += count;
      left_[task] -= count;
    }
  }

  std::vector<Group> groups_;
  std::vector<std::size_t> group_of_;          // [records]
  std::vector<bool> chosen_;                   // [records]
  std::map<std::string, std::int64_t> taken_;  // by task
  std::map<std::string, std::int64_t> left_;   // by task: for training
};

}  // namespace

std::uint64_t record_hash(const Record& record, std::uint64_t salt) {
  io::Sha256 hash;
  hash.update(&salt, sizeof salt);
  for (const std::string* part : {&record.input, &record.target, &record.task}) {
    const std::uint64_t size = part->size();
    hash.update(&size, sizeof size).update(*part);
  }
  return std::stoull(hash.hex().substr(0, 16), nullptr, 16);
}

std::vector<Record> select_part(std::vector<Record> records, std::int64_t index, std::int64_t of) {
  MOELORA_CHECK(of >= 1 && index >= 0 && index < of, "expected a part with 0 <= index < of, found index ", index,
                " of ", of);
  if (of > 1) {
    std::erase_if(records, [&](const Record& record) {
      return record_hash(record, kPartSalt) % static_cast<std::uint64_t>(of) != static_cast<std::uint64_t>(index);
    });
  }
  return records;
}

std::vector<Record> select_tasks(std::vector<Record> records, const std::vector<std::string>& tasks,
                                 const std::vector<std::string>& without) {
  MOELORA_CHECK(tasks.empty() || without.empty(), "expected either tasks to take or tasks to leave out, found both; ",
                "leave one of the two lists out");
  const std::vector<std::string>& named = tasks.empty() ? without : tasks;
  if (named.empty()) {
    return records;
  }
  const std::vector<std::string> known = task_names_of(records);
  for (const std::string& name : named) {
    MOELORA_CHECK(std::find(known.begin(), known.end(), name) != known.end(), "no record is of task '", name, "'",
                  io::suggestion(name, known));
  }
  std::erase_if(records, [&](const Record& record) {
    const bool is_named = std::find(named.begin(), named.end(), record.task) != named.end();
    return is_named != !tasks.empty();
  });
  MOELORA_CHECK(!records.empty(), "expected records of some task, found that all ", known.size(),
                " tasks are left out; name fewer");
  return records;
}

std::vector<Record> select_few(std::vector<Record> records, std::int64_t count) {
  MOELORA_CHECK(count >= 1, "expected at least one record to take, found ", count);
  if (count >= static_cast<std::int64_t>(records.size())) {
    return records;
  }
  std::vector<std::pair<std::uint64_t, std::size_t>> hashed;
  for (std::size_t i = 0; i < records.size(); ++i) {
    hashed.emplace_back(record_hash(records[i], kFewSalt), i);
  }
  std::sort(hashed.begin(), hashed.end());
  hashed.resize(static_cast<std::size_t>(count));
  std::vector<bool> chosen(records.size(), false);
  for (const auto& [hash, place] : hashed) {
    chosen[place] = true;
  }
  std::vector<Record> few;
  for (std::size_t i = 0; i < records.size(); ++i) {
    if (chosen[i]) {
      few.push_back(std::move(records[i]));
    }
  }
  return few;
}

Split carve_validation(std::vector<Record> records, std::int64_t size, std::uint64_t seed) {
  const auto total = static_cast<std::int64_t>(records.size());
  MOELORA_CHECK(size >= 0 && size < total, "expected a validation part smaller than the ", total,
                " training records, found validation_size ", size, "; give fewer or more data");
  std::map<std::string, std::vector<std::pair<std::uint64_t, std::size_t>>> by_task;
  for (std::size_t i = 0; i < records.size(); ++i) {
    by_task[records[i].task].emplace_back(record_hash(records[i], seed + 2), i);
  }
  ValidationChoice choice(records);
  if (size > 0) {
    std::vector<std::int64_t> counts;
    for (const auto& [task, hashed] : by_task) {
      counts.push_back(static_cast<std::int64_t>(hashed.size()));
    }
    const std::vector<std::int64_t> shares = validation_shares(counts, size);
    std::size_t place = 0;
    for (auto& [task, hashed] : by_task) {
      std::sort(hashed.begin(), hashed.end());
      std::vector<std::size_t> order;
      for (const auto& [hash, record] : hashed) {
        order.push_back(record);
      }
      choice.take(task, shares[place++], order);
    }
  }
  Split split;
  for (std::size_t i = 0; i < records.size(); ++i) {
    (choice.chosen(i) ? split.validation : split.train).push_back(std::move(records[i]));
  }
  return split;
}

std::vector<std::size_t> shared_questions(const std::vector<Record>& records, const std::vector<Record>& others) {
  std::unordered_set<std::string> asked;
  for (const Record& record : records) {
    asked.insert(question_of(record));
  }
  std::vector<std::size_t> shared;
  for (std::size_t i = 0; i < others.size(); ++i) {
    if (asked.contains(question_of(others[i]))) {
      shared.push_back(i);
    }
  }
  return shared;
}

std::int64_t default_validation_size(std::int64_t records) { return std::min<std::int64_t>(500, records / 20); }

}  // namespace moelora::data
