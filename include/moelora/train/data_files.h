#pragma once
// The files of "data.train" and "data.validation": one path, or a list of files with weights and fields of their own.

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "moelora/data/field_map.h"
#include "moelora/data/record.h"

namespace moelora::train {

struct DataFile {
  std::string path;
  double weight = 1.0;                   ///< Of each of its records, when samples are drawn (data/sampler.h).
  std::optional<data::FieldMap> fields;  ///< Instead of those that hold for all files.
};

/// Either a path or `files`; both may be empty.
struct DataFiles {
  std::string path;
  std::vector<DataFile> files;
};

/// "FILE", {"file": "FILE", "weight": 2.0, "fields": …} or a list of these. null: nothing. Error listing all problems:
/// wrong types, unknown keys, weights out of range, a file that is listed twice, an empty list; `where` names the key.
DataFiles data_files_from_json(const nlohmann::ordered_json& json, const std::string& where);
/// As it is read; null if there are no files.
nlohmann::ordered_json to_json(const std::string& path, const std::vector<DataFile>& files);

/// All files in one list, `path` as one of weight 1.
std::vector<DataFile> listed(const std::string& path, const std::vector<DataFile>& files);
/// "a.json" or "a.json, b.json".
std::string title_of(const std::vector<DataFile>& files);

/// The records of all files, one file after another, each by its own fields or those of `options`, with their weights;
/// where there are several, records name their file, and duplicates are left out across them, too. Logs what was left
/// out, and which task names may be one task in several spellings. The problems of records that
/// were left out are added to `left_out`, if it is given. Errors as data::read_records.
std::vector<data::Record> read_and_report(const std::vector<DataFile>& files, const data::ReadOptions& options,
                                          std::vector<std::string>* left_out = nullptr);

}  // namespace moelora::train
