#pragma once
// Cutting a list of records: parts of a file, some of its tasks, a few of its records, and a validation part carved out
// of the training records. What is not decided by the task is decided by a hash of the record itself, so that neither
// the order of the file nor other records matter.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "moelora/data/record.h"

namespace moelora::data {

/// Hash of input, target and task; `salt` makes independent hashes.
std::uint64_t record_hash(const Record& record, std::uint64_t salt);

/// The records whose hash modulo `of` is `index`. Error unless 0 <= index < of.
std::vector<Record> select_part(std::vector<Record> records, std::int64_t index, std::int64_t of);

/// The records of `tasks` (empty: of all), or all but those of `without`. Error: a name of which there is no record,
/// both lists, nothing left.
std::vector<Record> select_tasks(std::vector<Record> records, const std::vector<std::string>& tasks,
                                 const std::vector<std::string>& without);

/// At most `count` records, those of the smallest hashes, in the order they have: a larger count only adds some.
std::vector<Record> select_few(std::vector<Record> records, std::int64_t count);

struct Split {
  std::vector<Record> train;
  std::vector<Record> validation;
};

/// Takes about `size` records out for validation, in the tasks' proportions (a task with two records or more gives at
/// least one, if `size` allows). A task keeps at least one training record. Records of the same input and history, as
/// duplicates and several answers to one question are, go to the same part; so the validation part may be smaller than
/// `size`, or larger where questions have several answers. Both parts keep the records' order. Error if fewer than
/// `size` + 1 records are there.
Split carve_validation(std::vector<Record> records, std::int64_t size, std::uint64_t seed);

/// Places of those of `others` whose input and history some record of `records` has too: what would be learned and
/// then asked.
std::vector<std::size_t> shared_questions(const std::vector<Record>& records, const std::vector<Record>& others);

/// 5 % of the records, at most 500: what `moelora train` carves out unless told otherwise.
std::int64_t default_validation_size(std::int64_t records);

}  // namespace moelora::data
