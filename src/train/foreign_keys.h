#pragma once
// Keys that other programs have for our settings.

#include "moelora/io/json_reader.h"

namespace moelora::train {

/// A problem for each key of the reader that is another program's name (lr, epochs, …): it says what ours is called.
void point_to_our_keys(io::JsonReader& reader);

/// Likewise for keys of the section "training" that stand beside the sections.
void point_to_training(io::JsonReader& reader, const nlohmann::ordered_json& training_keys);

}  // namespace moelora::train
