#pragma once

#include <vector>

#include "gpu/bench/model.h"
#include "moelora/data/example.h"

namespace moelora::bench {

/// Samples whose lengths are those of real records (PromptCBLUE's training part, 1024 tokens of source and 196 of
/// target at most), with random tokens; eight tasks in turn. Time depends on nothing else.
std::vector<data::Example> samples_of_real_lengths(std::size_t count, std::int64_t most);

}  // namespace moelora::bench
