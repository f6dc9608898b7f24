#pragma once
// A training configuration as a text for people: every key with its value and, in a comment line above, its meaning.

#include <string>

#include "moelora/io/field_visitors.h"
#include "moelora/train/config.h"

namespace moelora::train {

/// All keys with their sections ("training.steps"), those of the adapter too.
const io::FieldList& train_fields();

/// JSON with comment lines, as `moelora train --config` reads it. Keys that exclude others or are left out by default
/// are shown as comments.
std::string documented_config(const TrainConfig& config);

/// Every key's default; "FOLDER" and "FILE" stand for what has none: model.path and data.train.
std::string documented_default_config();

}  // namespace moelora::train
