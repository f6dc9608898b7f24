#pragma once
// What loading an exported file changes, measured by loading it.

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "cli/session.h"

namespace moelora::cli {

/// A file or folder that `export` wrote.
struct ExportedFile {
  std::filesystem::path path;
  std::vector<std::string> tasks;  ///< In the order in which the file holds them.
  std::filesystem::path probe;     ///< Where what it changes is noted.
};

/// Loads a written file, as another program would, onto the base alone.
using LoadExported = std::function<Adapter(model::CausalLM& base, const ExportedFile& file)>;

/// Takes the session's adapter off its base, loads each file, and notes the changes of the logits of fixed prompts, by
/// task: the prompts' ids, the largest change, and the next token's. A server that shows others ignores the file.
void write_probes(Session& session, const std::filesystem::path& model, const std::vector<ExportedFile>& files,
                  const LoadExported& load);

}  // namespace moelora::cli
