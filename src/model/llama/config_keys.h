#pragma once
// The keys of a config.json that describe no size: those that must have one value, those that change no number, and
// those that nobody knows.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "moelora/io/json_reader.h"

namespace moelora::model {

/// Marks the entries of `json` that are not in `read` as asked for. Problems: settings that the graph does not follow,
/// and unknown ones whose names are those of a graph's settings. Other unknown ones are warned of, once in a process.
void check_other_keys(const nlohmann::ordered_json& json, const std::vector<std::string>& read, io::JsonReader& reader);

}  // namespace moelora::model
