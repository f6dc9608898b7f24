#pragma once
// What a run must agree in to be continued, and what may change on the way.
//
// Free on resuming: what changes nothing that is learned (memory, threads, logging, checkpoints, validation steps).
// Changed with a warning, in the log and in the adapter's provenance: steps, learning rate, schedule, warm-up,
// clipping, weight decay and AdamW's numbers. Only if asked for: the type and the device that are computed on. All
// else makes another run.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <vector>

namespace moelora::train {

/// `options` and `adapter` are JSON texts.
struct RunIdentity {
  std::string options;           ///< TrainingOptions
  std::string adapter;           ///< MoeLoraConfig and task names; empty in full mode
  std::string data_hash;         ///< of the encoded examples
  std::string base_fingerprint;  ///< empty: not known
  std::int64_t threads = 0;      ///< sums may round otherwise with another number
  std::int64_t ranks = 1;        ///< likewise
  std::string dtype;             ///< that is computed in, e.g. "float32"; empty: not recorded
  std::string device;            ///< its type, "cpu" or "cuda"; empty: not recorded
};

/// A setting that another session changed; JSON texts of its values.
struct RunChange {
  std::int64_t step = 0;  ///< After which the new value holds.
  std::string key;        ///< E.g. "training.learning_rate".
  std::string before;
  std::string after;
};

/// [{"step", "key", "before", "after"}], as checkpoints and provenance hold it.
nlohmann::ordered_json changes_to_json(const std::vector<RunChange>& changes);
std::vector<RunChange> changes_from_json(const nlohmann::ordered_json& json);  ///< Error if it is no such list.

/// The names that `allowed` of check_same_run() may hold: "dtype", "device".
const std::vector<std::string>& allowable_changes();

/// Error naming every difference that makes another run. Returns the changes that matter, each logged as a warning;
/// what may only round otherwise (threads, processes, micro-batches) is logged alone. `step`: of the checkpoint.
std::vector<RunChange> check_same_run(const RunIdentity& then, const RunIdentity& now, std::int64_t step,
                                      const std::set<std::string>& allowed = {});

}  // namespace moelora::train
