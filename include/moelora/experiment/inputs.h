#pragma once
// What a cell's numbers depend on besides the configuration: the records, the prompts and the base. Every result.json
// holds their hashes, so that finished cells are never mixed with cells of other records.

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moelora/data/record.h"
#include "moelora/experiment/grid.h"
#include "moelora/train/run_data.h"

namespace moelora::experiment {

/// {"train", "validation", "evaluation", "task_prompts"}: SHA-256 of what the configuration's files hold now (of
/// records as they are used, in their order; of the prompts' file; "" where there is none).
nlohmann::ordered_json input_hashes(const ExperimentConfig& config, const train::RunData& records,
                                    const std::vector<data::Record>& references);
/// The same, read from the files.
nlohmann::ordered_json input_hashes(const ExperimentConfig& config);

/// Compares the finished cells' "inputs" with `now`; hashes that either side lacks are not compared, and cells that
/// hold none at all (of earlier versions) are warned of. Error naming the cells and what changed.
void check_inputs_of_finished(const std::vector<Cell>& cells, const std::filesystem::path& output,
                              const nlohmann::ordered_json& now);

}  // namespace moelora::experiment
