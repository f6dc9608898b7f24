#pragma once
// A new task from a few examples: a trained adapter gets one more task (adapter/new_task.h), and the trainer fits that
// task's embedding alone (TrainInputs::new_task_only): d_T numbers, with per_linear gates d_T for each linear.

#include <filesystem>
#include <string>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/data/record.h"

namespace moelora::train {

/// Loads the adapter in `folder` and gives it the task of `records` as its last one. Fingerprints as load_adapter()
/// takes them. Error: what loading or with_new_task() refuses, and records that are not all of one task that the
/// adapter does not have (names what was found).
Adapter load_with_new_task(torch::nn::Module& base, const std::filesystem::path& folder,
                           const std::vector<data::Record>& records, const std::string& base_fingerprint,
                           const std::string& tokenizer_fingerprint, const std::string& name = "default");

}  // namespace moelora::train
