#pragma once
// What a model folder needs beside weights and config.json so that other programs can load it: the tokenizer's files,
// generation_config.json, and the Python code that `auto_map` names. The code is copied as bytes and never run.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace moelora::model {

struct FolderFiles {
  std::vector<std::filesystem::path> present;  ///< Relative to the folder, without weights and config.json.
  std::vector<std::string> missing;            ///< "modeling_x.py (config.json, AutoModel)": named but not there.
};

/// What `folder` holds of these. Of the code: every module that the `auto_map` of config.json or tokenizer_config.json
/// names, and what those import relatively. A name that is no plain module of this folder (a path, another
/// repository's "owner/name--module.Class") is followed only if such a file lies in the folder itself.
FolderFiles folder_files(const std::filesystem::path& folder);

/// Copies them from one folder into another that exists, subfolders included.
void copy_folder_files(const std::filesystem::path& from, const std::filesystem::path& to);

/// One warning that names everything missing; nothing if all is there.
void warn_of_missing_files(const std::filesystem::path& folder);

}  // namespace moelora::model
