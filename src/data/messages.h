#pragma once
// A conversation in a record: roles and texts, of which the last answer is learned.

#include "data/record_fields.h"
#include "moelora/data/field_map.h"
#include "moelora/data/record.h"

namespace moelora::data {

/// Fills the record's input, target, history and system from its messages. What can't be said so is a problem of
/// `fields`: an unknown role, a system text behind the first message, two turns of one side in a row, an empty message,
/// tools. `need_target`: the last message must be an answer.
void read_conversation(RecordFields& fields, const MessageFields& messages, bool need_target, Record& record);

}  // namespace moelora::data
