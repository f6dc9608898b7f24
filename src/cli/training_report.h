#pragma once
// The page about a run, from its log.

#include <filesystem>

#include "moelora/train/config.h"
#include "moelora/train/trainer.h"

namespace moelora::cli {

/// Writes OUTPUT/report.html from OUTPUT/log.jsonl: losses, losses per task, expert weights per task.
void write_training_report(const std::filesystem::path& output, const train::TrainConfig& config,
                           const train::TrainResult& result);

}  // namespace moelora::cli
