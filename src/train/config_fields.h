#pragma once
// The fields of `moelora train`'s configuration: the one list of its keys (io/fields.h).

#include "moelora/io/field_visitors.h"
#include "moelora/train/config.h"
#include "moelora/train/config_text.h"

namespace moelora::train {

/// Section "training".
void fields(io::FieldVisitor& visit, TrainingOptions& options);

/// `adapter`: the section of that name as JSON, which the adapter's own reader interprets; null: left out.
void fields(io::FieldVisitor& visit, TrainConfig& config, nlohmann::ordered_json& adapter);

}  // namespace moelora::train
