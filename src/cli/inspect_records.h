#pragma once
// moelora inspect on a file of records.

#include <filesystem>

#include "cli/show_records.h"

namespace moelora::cli {

/// Whether a file holds records, or data of another program, and no configuration: an array, several objects, or an
/// object with the fields of a record. Error: a kind of file that is neither (CSV, an archive, …).
bool is_data_file(const std::filesystem::path& path);

/// Prints how many records there are, of which tasks, what is odd about them, and the first ones as a model sees them.
void inspect_records(const std::filesystem::path& path, const RecordInspection& inspection);

}  // namespace moelora::cli
