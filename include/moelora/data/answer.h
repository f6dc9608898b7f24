#pragma once
// A model's answer to a record, as it is kept while a run goes on.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace moelora::data {

struct Answer {
  std::int64_t record = 0;  ///< index of the record
  std::string text;
  std::int64_t tokens = 0;  ///< generated, an end of sequence included
  bool finished = false;    ///< The model ended it; false: cut at the longest answer.
};

/// {"record", "answer", "tokens", "finished"}
nlohmann::ordered_json to_json(const Answer& answer);
/// Throws nlohmann's exception if it is no such object.
Answer answer_from_json(const nlohmann::ordered_json& json);

}  // namespace moelora::data
