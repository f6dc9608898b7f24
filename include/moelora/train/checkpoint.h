#pragma once
// Checkpoints of a run: OUTPUT/checkpoints/step-N/ with the trained tensors (adapter/ or parameters.safetensors),
// optimizer.safetensors and state.json. A checkpoint appears whole or not at all, so the newest is always usable,
// whenever the program was killed.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moelora::train {

/// What a run must agree in to be continued bit for bit. `options` and `adapter` are JSON texts.
struct RunIdentity {
  std::string options;           ///< TrainingOptions
  std::string adapter;           ///< MoeLoraConfig and task names; empty in full mode
  std::string data_hash;         ///< of the encoded examples
  std::string base_fingerprint;  ///< empty: not known
  std::int64_t threads = 0;      ///< sums may round otherwise with another number
  std::int64_t ranks = 1;        ///< likewise
};

struct RunState {
  std::int64_t step = 0;  ///< Steps done.
  std::uint64_t sampler_seed = 0;
  std::optional<double> best_loss;  ///< Lowest validation loss so far.
  std::int64_t best_step = 0;       ///< The step that had it.
  double loss_scale = 1.0;
  std::int64_t good_steps = 0;  ///< LossScaler's count.
  std::int64_t tokens = 0;      ///< Rows computed so far.
  double seconds = 0.0;         ///< Time spent so far, all sittings together.
  std::int64_t log_bytes = 0;   ///< Length of log.jsonl.
  std::map<std::string, std::pair<double, std::int64_t>>
      window;  ///< Loss sum and labels by task since they were logged.
  RunIdentity identity;

  static RunState from_json(const nlohmann::ordered_json& json);
  nlohmann::ordered_json to_json() const;
};

/// Error naming every difference that would change the course of the run. Other numbers of steps, threads and
/// ranks, and the settings of logging and checkpoints may differ; the first three are logged as warnings.
void check_same_run(const RunIdentity& then, const RunIdentity& now);

class CheckpointFolder {
 public:
  explicit CheckpointFolder(std::filesystem::path folder);

  /// Steps of the checkpoints present, ascending.
  std::vector<std::int64_t> steps() const;
  std::filesystem::path path_of(std::int64_t step) const;
  /// Writes one: `fill` puts the tensors into the folder that it is given, state.json is added.
  void write(const RunState& state, const std::function<void(const std::filesystem::path&)>& fill) const;
  /// The newest one that can be read; a damaged one is logged as a warning and passed over.
  std::optional<RunState> newest() const;
  /// Removes all but the `keep` newest and `best_step`'s.
  void prune(std::int64_t keep, std::int64_t best_step) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace moelora::train
