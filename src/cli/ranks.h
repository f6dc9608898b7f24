#pragma once
// A verb that several processes run together.

#include <functional>
#include <string>

#include "moelora/train/process_group.h"

namespace moelora::cli {

/// Runs `work` in the process group of the environment (null: a single process) and returns its exit code. When
/// another rank is lost this prints which, and ends the program with exit code 1.
int run_with_ranks(const std::string& verb, const std::function<int(train::ProcessGroup* ranks)>& work);

/// Whether this process writes files and prints results.
inline bool writes(const train::ProcessGroup* ranks) { return ranks == nullptr || ranks->is_first(); }

/// --device for a rank: "auto" and "cuda" become the GPU of its local rank if there are GPUs.
std::string device_of_rank(const std::string& device, const train::ProcessGroup* ranks);

}  // namespace moelora::cli
