#include "model/tokenizers/post_processor.h"

#include "moelora/io/error.h"

namespace moelora::model::tokenizers {
namespace {

TokenIds ids_of(JsonPart& tokens, const std::string& name) {
  JsonPart token = tokens.child(name);
  TokenIds ids;
  for (const Json& id : token.list("ids")) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0) {
      token.wrong("ids", "whole numbers of at least 0");
    }
    ids.push_back(id.get<std::int64_t>());
  }
  return ids;
}

Surroundings read_template(JsonPart& part) {
  part.find("pair");  // two texts are never encoded together
  const std::vector<Json>& single = part.list("single");
  Surroundings result;
  bool text_seen = false;
  for (std::size_t i = 0; i < single.size(); ++i) {
    JsonPart piece = part.at("single", i, single[i]);
    if (piece.find("Sequence") != nullptr) {
      if (piece.child("Sequence").text("id") != "A" || text_seen) {
        piece.refuse("a template with another sequence than one A");
      }
      text_seen = true;
      continue;
    }
    JsonPart tokens = part.child("special_tokens");
    const TokenIds ids = ids_of(tokens, piece.child("SpecialToken").text("id"));
    TokenIds& side = text_seen ? result.after : result.before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!text_seen) {
    part.wrong("single", "a template that contains the sequence A");
  }
  part.find("special_tokens");
  return result;
}

}  // namespace

Surroundings read_post_processor(const Json& json, const std::string& where, int depth) {
  Surroundings result;
  if (json.is_null()) {
    return result;
  }
  MOELORA_CHECK(depth < kDeepest, where, ": expected at most ", kDeepest, " sequences in each other");
  JsonPart part(json, where);
  const std::string type = part.type();
  if (type == "TemplateProcessing") {
    result = read_template(part);
  } else if (type == "ByteLevel") {
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) {
      part.find(key);  // offsets are not kept
    }
  } else if (type == "Sequence") {
    part.each("processors", [&](const Json& entry, const std::string& place) {
      const Surroundings outer = read_post_processor(entry, place, depth + 1);
      result.before.insert(result.before.begin(), outer.before.begin(), outer.before.end());
      result.after.insert(result.after.end(), outer.after.begin(), outer.after.end());
    });
  } else {
    part.refuse("a post-processor of type \"" + type + "\"");
  }
  part.finish();
  return result;
}

}  // namespace moelora::model::tokenizers
