#pragma once
// A run that begins with the values of a trained adapter (TrainConfig::adapter_from in mode adapter): the same tasks,
// more training. One more task without training the rest is train/new_task.h.

#include <filesystem>
#include <string>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/data/record.h"
#include "moelora/train/config.h"

namespace moelora::train {

/// config.adapter becomes the configuration of the adapter in config.adapter_from. Error listing what the section
/// "adapter" has otherwise. Nothing happens in other modes and without adapter_from.
void take_adapter_config(TrainConfig& config);

/// Loads the adapter to be trained on. Tasks without a record are named in a warning: training changes them too.
/// Error: another base or tokenizer, a damaged adapter, records of tasks that it does not have (named).
Adapter load_to_train_on(torch::nn::Module& base, const std::filesystem::path& folder,
                         const std::vector<data::Record>& records, const std::string& base_fingerprint,
                         const std::string& tokenizer_fingerprint, const std::string& name = "default");

/// Fingerprint of an adapter's values, for TrainInputs::begins_from.
std::string fingerprint_of(const AdapterImpl& adapter);

}  // namespace moelora::train
