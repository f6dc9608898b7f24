#pragma once
// Checkpoints of a run: OUTPUT/checkpoints/step-N/ with the trained tensors (adapter/ or parameters.safetensors),
// optimizer.safetensors, state.json and SHA256SUMS, the checksums of all of them. A checkpoint appears whole or not at
// all, so the newest is usable whenever the program was killed; what a disk or a copy did to it later is found by the
// checksums. Checkpoints of earlier versions have none and are read all the same.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moelora/train/run_identity.h"

namespace moelora::train {

struct RunState {
  std::int64_t step = 0;  ///< Steps done.
  std::uint64_t sampler_seed = 0;
  std::optional<double> best_loss;          ///< Lowest validation loss so far; always finite.
  std::int64_t best_step = 0;               ///< The step that had it.
  std::int64_t validations_not_finite = 0;  ///< The last ones in a row whose loss was not finite.
  double loss_scale = 1.0;
  std::int64_t good_steps = 0;  ///< LossScaler's counts.
  std::int64_t skipped_steps = 0;
  std::int64_t skipped_in_a_row = 0;
  std::int64_t tokens = 0;     ///< Rows computed so far.
  double seconds = 0.0;        ///< Time spent so far, all sessions together.
  std::int64_t log_bytes = 0;  ///< Length of log.jsonl.
  std::map<std::string, std::pair<double, std::int64_t>>
      window;  ///< Loss sum and labels by task since they were logged.
  RunIdentity identity;
  std::vector<RunChange> changes;  ///< Of settings, in all sessions so far.

  static RunState from_json(const nlohmann::ordered_json& json);
  nlohmann::ordered_json to_json() const;
};

class CheckpointFolder {
 public:
  explicit CheckpointFolder(std::filesystem::path folder);

  /// Steps of the checkpoints present, usable or not, ascending. Error if the folder is there but cannot be listed.
  std::vector<std::int64_t> steps() const;
  std::filesystem::path path_of(std::int64_t step) const;
  /// Writes one: `fill` puts the tensors into the folder that it is given, state.json and checksums are added.
  void write(const RunState& state, const std::function<void(const std::filesystem::path&)>& fill) const;
  /// Checks every file and reads the state. Error saying what is wrong with which file.
  RunState read(std::int64_t step) const;
  /// The newest one that is whole and whose best one (the result, if nothing better comes) is whole too; newer ones
  /// are named in warnings. Nothing if there is no checkpoint. Error if there are some and none can be used: what is
  /// wrong with each of them.
  std::optional<RunState> newest() const;
  /// Removes all but the `keep` newest ones and the best one by then of each of these. `best_step`: the newest's.
  void prune(std::int64_t keep, std::int64_t best_step) const;

 private:
  std::filesystem::path folder_;
};

/// "step-3, step-6"; "none".
std::string listed_steps(const std::vector<std::int64_t>& steps);

}  // namespace moelora::train
