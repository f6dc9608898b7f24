#pragma once
// What a run trains, by name, and how it gets into files and back: the one place where the two modes differ on disk.

#include <filesystem>
#include <string>
#include <vector>

#include "moelora/train/optimizer.h"
#include "moelora/train/run_identity.h"
#include "moelora/train/trained_parameters.h"
#include "moelora/train/trainer.h"

namespace moelora::train {

/// What the learning rate is multiplied with for each of `trained` (trained_parameters() of that adapter, which may be
/// null): `gate_ratio` for gates and routers, 1 for all others.
std::vector<double> learning_rate_ratios(const io::NamedTensors& trained, const AdapterImpl* adapter,
                                         double gate_ratio);

/// A checkpoint's content besides state.json. `changes` become part of the adapter's provenance.
void save_checkpoint_tensors(const TrainInputs& inputs, const std::vector<RunChange>& changes, const AdamW& optimizer,
                             const std::filesystem::path& folder);
void load_trained_parameters(const TrainInputs& inputs, const std::filesystem::path& folder);
void load_optimizer(AdamW& optimizer, const std::filesystem::path& folder);

/// Writes OUTPUT/adapter or OUTPUT/model from the parameters as they are (unless another rank `writes`); returns its
/// path.
std::filesystem::path save_result(const TrainInputs& inputs, const std::vector<RunChange>& changes,
                                  const Callbacks& callbacks, bool writes);

/// SHA-256 over the ids, first labels and tasks of all examples.
std::string examples_hash(const std::vector<data::Example>& train, const std::vector<data::Example>& validation);

}  // namespace moelora::train
