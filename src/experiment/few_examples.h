#pragma once
// A few records of one task, as a user who has only these would have them.

#include <cstdint>
#include <string>
#include <vector>

#include "moelora/data/record.h"

namespace moelora::experiment {

/// `count` records of `task` (fewer if there are no more), chosen by a hash of record and seed. Error: none.
std::vector<data::Record> few_examples(const std::vector<data::Record>& records, const std::string& task,
                                       std::int64_t count, std::uint64_t seed);

}  // namespace moelora::experiment
