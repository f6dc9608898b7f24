#pragma once
// Records as a model sees them: lengths, what is cut, and the first ones written out.

#include <filesystem>
#include <string>
#include <vector>

#include "moelora/data/example.h"
#include "moelora/data/record.h"
#include "moelora/model/registry.h"

namespace moelora::cli {

struct RecordInspection {
  data::FieldMap fields;
  std::filesystem::path model;                      ///< Folder whose tokenizer shows tokens; empty: characters alone.
  std::string chat_template = model::kOwnTemplate;  ///< model, none or a file.
  data::EncodeOptions encode;                       ///< What training cuts.
  std::int64_t samples = 2;                         ///< That are written out.
};

/// Prints the lengths of prompts and answers in characters and, with a model, in tokens, how many of them a training
/// would cut, and the first records.
void show_records(const std::vector<data::Record>& records, const RecordInspection& inspection);

}  // namespace moelora::cli
