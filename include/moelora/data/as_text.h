#pragma once
// Records as plain text to be continued: what a base model learns a language from before it learns tasks.

#include <vector>

#include "moelora/data/record.h"

namespace moelora::data {

/// Input and target as one text, cut after 5 to 50 % of its characters at a place that the record's hash chooses: what
/// stands before becomes the input, the rest the target. Task "text". Earlier rounds, type and choices are dropped.
/// A text of one character is left out.
std::vector<Record> as_texts(std::vector<Record> records);

}  // namespace moelora::data
