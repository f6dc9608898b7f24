#include "moelora/data/split.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "moelora/io/error.h"
#include "moelora/io/json_reader.h"
#include "moelora/io/sha256.h"

namespace moelora::data {
namespace {

constexpr std::uint64_t kPartSalt = 1;
constexpr std::uint64_t kFewSalt = 0x6665772072656373ull;  // far from those that a seed makes

/// How many records each task gives: proportional shares rounded down, the rest to the largest remainders, then at
/// least one for every task that can spare it.
std::vector<std::int64_t> validation_shares(const std::vector<std::int64_t>& counts, std::int64_t size) {
  std::int64_t total = 0;
  for (const std::int64_t count : counts) {
    total += count;
  }
  std::vector<std::int64_t> shares(counts.size());
  std::vector<std::pair<std::int64_t, std::size_t>> remainders;  // negated, so that sorting puts the largest first
  std::int64_t given = 0;
  for (std::size_t task = 0; task < counts.size(); ++task) {
    shares[task] = size * counts[task] / total;
    remainders.emplace_back(-(size * counts[task] % total), task);
    given += shares[task];
  }
  std::sort(remainders.begin(), remainders.end());
  for (std::size_t i = 0; given < size; i = (i + 1) % remainders.size()) {
    const std::size_t task = remainders[i].second;
    if (shares[task] < counts[task]) {
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
  std::vector<std::int64_t> counts;
  for (const auto& [task, hashed] : by_task) {
    counts.push_back(static_cast<std::int64_t>(hashed.size()));
  }
  std::vector<bool> chosen(records.size(), false);
  if (size > 0) {
    const std::vector<std::int64_t> shares = validation_shares(counts, size);
    std::size_t place = 0;
    for (auto& [task, hashed] : by_task) {
      std::sort(hashed.begin(), hashed.end());
      for (std::int64_t i = 0; i < shares[place]; ++i) {
        chosen[hashed[static_cast<std::size_t>(i)].second] = true;
      }
      ++place;
    }
  }
  Split split;
  for (std::size_t i = 0; i < records.size(); ++i) {
    (chosen[i] ? split.validation : split.train).push_back(std::move(records[i]));
  }
  return split;
}

std::int64_t default_validation_size(std::int64_t records) { return std::min<std::int64_t>(500, records / 20); }

}  // namespace moelora::data
