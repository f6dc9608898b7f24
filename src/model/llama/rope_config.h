#pragma once
// Reading how positions turn the heads out of a config.json.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "moelora/io/json_reader.h"
#include "moelora/model/llama/config.h"

namespace moelora::model {

/// Reads `rope_scaling`, or else `rope_parameters`, beside `rope_theta` and `partial_rotary_factor`, into config.rope.
/// `json` is what `reader` reads, without nulls. config.max_position_embeddings is read already, config.rope.partial is
/// the default. Adds the keys that it has read to `read`.
void read_llama_rope(const nlohmann::ordered_json& json, bool partial_is_followed, LlamaConfig& config,
                     io::JsonReader& reader, std::vector<std::string>& read);

/// The same in the older spelling: adds rope_theta and rope_scaling, and partial_rotary_factor where it is followed.
void write_llama_rope(const LlamaConfig& config, bool partial_is_followed, nlohmann::ordered_json& json);

}  // namespace moelora::model
