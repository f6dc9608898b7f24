#pragma once
// One cell of the grid, from the base model to result.json. Everything that it writes lies in its own folder:
//
//   run/             what the trainer writes (a composition: run/adapter)
//   predictions.json answers to the evaluation records (JSON lines)
//   status           one line: what it is doing, done, total; for whoever watches
//   result.json      written last: the cell is finished

#include <atomic>
#include <filesystem>

#include "moelora/experiment/grid.h"
#include "moelora/experiment/method.h"

namespace moelora::experiment {

/// Reads the files of records and prompts and the methods' configurations; returns input_hashes() of what was read.
/// Error naming what does not fit.
nlohmann::ordered_json check_inputs(const ExperimentConfig& config);

/// Runs a cell, resuming its training where it was. Returns false if `stop` ended it early (it can be resumed). Error:
/// a cell that it needs is not finished, or whatever training and evaluation report.
bool run_cell(const ExperimentConfig& config, const Cell& cell, const std::filesystem::path& output,
              const OpenBase& open_base, const std::atomic<bool>* stop = nullptr);

}  // namespace moelora::experiment
